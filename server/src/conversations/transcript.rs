//! What is kept of a conversation: its visible messages, where its turns ended, what was read for it.

use std::collections::BTreeMap;
use std::ops::Range;

use onegen_engine::{ChatMessage, ConversationId};
use onegen_proto::ResponseObject;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::admission::Owner;
use crate::conversations::past_retrievals::PastRetrieval;
use crate::wire::clock::unix_seconds;

/// The id of a new conversation. Nobody can guess it.
pub(crate) fn new_id() -> ConversationId {
    format!("conv_{}", Uuid::new_v4().simple()).into()
}

/// What is known of a conversation between its turns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transcript {
    /// The visible messages. The last is the assistant's, but where messages were put in without a turn.
    pub(crate) messages: Vec<ChatMessage>,
    /// The ends of the turns that the engine's log holds, in order; none if it holds nothing. Messages
    /// behind the last of them were put in without a turn, and are encoded with the next one's.
    pub(crate) turns: Vec<TurnEnd>,
    /// Who may read and continue it.
    pub(crate) owner: Owner,
    /// Whether the client goes by the conversation's id.
    pub(crate) named: bool,
    /// The retrievals that its turns have read, in order.
    pub(crate) retrievals: Vec<PastRetrieval>,
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
    /// How far the engine's log goes; nowhere if it holds nothing.
    pub(crate) fn log_end(&self) -> TurnEnd {
        self.turns.last().copied().unwrap_or_default()
    }

    /// Notes that the engine holds nothing of it, so that the next turn begins again from the visible messages.
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

/// What does not change from turn to turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConversationDetails {
    /// When the conversation was begun, in seconds since 1970.
    pub(crate) created: u64,
    /// What the client wants to remember of it.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl ConversationDetails {
    /// The details of a conversation that begins now.
    pub(crate) fn now(metadata: BTreeMap<String, String>) -> Self {
        let created = unix_seconds();
        Self { created, metadata }
    }
}

/// All that is kept of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct StoredConversation {
    pub(crate) transcript: Transcript,
    pub(crate) details: ConversationDetails,
    /// The responses that their client may ask for again, in their order.
    pub(crate) responses: Vec<StoredResponse>,
}

/// A response, and where in its conversation it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredResponse {
    /// Which of the messages came with its request. The next one is the answer.
    pub(crate) input: Range<usize>,
    /// The response that its client has seen, without the texts of passages, since they may be deleted.
    pub(crate) response: ResponseObject,
}
