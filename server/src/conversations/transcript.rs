//! The stored state of a conversation: its visible messages, where its turns ended, and which
//! passages were read.

use std::collections::BTreeMap;
use std::ops::Range;

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::ResponseObject;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::admission::Owner;
use crate::conversations::past_retrievals::PastRetrieval;
use crate::wire::clock::unix_seconds;

/// The id of a new conversation. It cannot be guessed.
pub(crate) fn new_id() -> ConversationId {
    format!("conv_{}", Uuid::new_v4().simple()).into()
}

/// The state of a conversation between its turns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transcript {
    /// What the system says before the first message, if a response has brought it. It is no message: the next
    /// response brings its own or none.
    pub(crate) instructions: Option<String>,
    /// The visible messages. The last is the assistant's, unless messages were added without a turn.
    pub(crate) messages: Vec<ChatMessage>,
    /// The ends of the turns that the engine's log holds, in order; empty if it holds nothing.
    /// Messages after the last of them were added without a turn, and are encoded together with the
    /// next turn's.
    pub(crate) turns: Vec<TurnEnd>,
    /// Who may read and continue it.
    pub(crate) owner: Owner,
    /// Whether the client names the conversation by its id.
    pub(crate) named: bool,
    /// The retrievals that its turns have read, in order.
    pub(crate) retrievals: Vec<PastRetrieval>,
    /// The numbers of messages that were deleted, ascending. Every message keeps the number that it got, so that
    /// the ids of items name the same ones for ever.
    pub(crate) deleted: Vec<usize>,
}

/// Where a turn ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TurnEnd {
    /// Messages up to there, the answer included.
    pub(crate) messages: usize,
    /// Tokens of the engine's log up to there.
    pub(crate) log_len: usize,
}

impl Transcript {
    /// One in which nothing was said.
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            instructions: None,
            messages: Vec::new(),
            turns: Vec::new(),
            owner,
            named: false,
            retrievals: Vec::new(),
            deleted: Vec::new(),
        }
    }

    /// The number of the message at a place, which may be the next one.
    pub(crate) fn number(&self, place: usize) -> usize {
        let deleted = self.deleted.iter();
        deleted.fold(place, |number, deleted| {
            number + usize::from(*deleted <= number)
        })
    }

    /// The place of the message with a number.
    pub(crate) fn place(&self, number: usize) -> Option<usize> {
        let before = self.deleted.partition_point(|deleted| *deleted < number);
        let is_deleted = self.deleted.get(before) == Some(&number);
        let place = number - before;
        (!is_deleted && place < self.messages.len()).then_some(place)
    }

    /// Deletes a message and what was read for it. The engine's log holds it, so the next turn begins again.
    fn delete(&mut self, place: usize) {
        let number = self.number(place);
        let at = self.deleted.partition_point(|deleted| *deleted < number);
        self.deleted.insert(at, number);
        self.messages.remove(place);
        self.retrievals.retain(|read| read.message != place);
        for read in &mut self.retrievals {
            read.message -= usize::from(read.message > place);
        }
        self.begin_again();
    }

    /// The end of the last turn in the engine's log; zero messages and tokens if it holds nothing.
    pub(crate) fn log_end(&self) -> TurnEnd {
        self.turns.last().copied().unwrap_or_default()
    }

    /// What the engine reads before its next answer: the instructions and all messages.
    pub(crate) fn prompt(&self) -> Vec<ChatMessage> {
        let instructions = self.instructions.iter();
        let instructions = instructions.map(|text| ChatMessage::new(Role::System, text));
        instructions.chain(self.messages.iter().cloned()).collect()
    }

    /// Records that the engine holds nothing of the conversation, so that the next turn begins again from the
    /// visible messages.
    pub(crate) fn begin_again(&mut self) {
        self.turns.clear();
        for retrieval in &mut self.retrievals {
            retrieval.held = false;
        }
    }

    /// Cuts the transcript back to its first messages.
    pub(crate) fn cut(&mut self, messages: usize) {
        self.messages.truncate(messages);
        self.turns.retain(|turn| turn.messages <= messages);
        self.retrievals.retain(|read| read.message < messages);
    }
}

/// The part of a conversation that turns do not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConversationDetails {
    /// When the conversation was begun, in seconds since 1970.
    pub(crate) created: u64,
    /// Metadata that the client has set.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl ConversationDetails {
    /// The details of a conversation that begins now.
    pub(crate) fn now(metadata: BTreeMap<String, String>) -> Self {
        let created = unix_seconds();
        Self { created, metadata }
    }
}

/// Everything that is stored of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct StoredConversation {
    pub(crate) transcript: Transcript,
    pub(crate) details: ConversationDetails,
    /// The responses that their client may fetch again, in order.
    pub(crate) responses: Vec<StoredResponse>,
    /// Which version of a row that servers share this is; `None` if it was never shared.
    pub(crate) shared: Option<SharedVersion>,
}

/// A version of a conversation in a table that servers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedVersion {
    /// Tells the table from others.
    pub(crate) table: String,
    pub(crate) version: i64,
}

impl StoredConversation {
    /// Deletes a message, and the stored response that it is the answer of.
    pub(crate) fn delete_message(&mut self, place: usize) {
        self.transcript.delete(place);
        self.responses.retain(|stored| stored.input.end != place);
        for StoredResponse { input, .. } in &mut self.responses {
            input.start -= usize::from(input.start > place);
            input.end -= usize::from(input.end > place);
        }
    }
}

/// A response and its place in the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredResponse {
    /// The messages that came with its request. The message after them is the answer.
    pub(crate) input: Range<usize>,
    /// The response that its client has seen, without the texts of passages, since they may be deleted.
    pub(crate) response: ResponseObject,
}
