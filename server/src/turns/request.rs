//! What a client asks of the model, validated.

use std::time::Instant;

use onegen_engine::{ChatMessage, ConversationId, SamplingParams};

use crate::admission::Caller;
use crate::conversations::Transcript;
use crate::turns::constraint::RequestedConstraint;
use crate::turns::retrieval::RequestedRetrieval;
use crate::wire::errors::FieldNames;

/// What all requests to write have in common, whatever is gone on with.
#[derive(Debug, Clone)]
pub(crate) struct TurnOptions {
    /// Who asks: whose conversations the turn may continue, whose a new one is, and whose KV-caches it may share.
    pub(crate) caller: Caller,
    pub(crate) sampling: SamplingParams,
    /// The retrieval of this turn only: the conversation's next one may search another collection.
    pub(crate) retrieval: RequestedRetrieval,
    /// Whether the engine may draft.
    pub(crate) drafting: bool,
    /// When the request came.
    pub(crate) received: Instant,
    /// What the route calls the fields that can be at fault here.
    pub(crate) fields: FieldNames,
}

/// A turn of a conversation that a client asks for, validated.
#[derive(Debug, Clone)]
pub(crate) struct TurnRequest {
    pub(crate) options: TurnOptions,
    /// The conversation that the client names.
    pub(crate) conversation: Option<ConversationId>,
    /// How many of that conversation's messages it goes on after; all, where nothing is said. After
    /// fewer, the turn is a copy's.
    pub(crate) after: Option<usize>,
    /// Whether the conversation is there afterwards. A turn that is not kept goes on with a copy.
    pub(crate) kept: bool,
    /// What the system says first.
    pub(crate) instructions: Instructions,
    /// With a named conversation the new messages, else all. The last is the user's.
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) constraint: Option<RequestedConstraint>,
}

/// What the system says before the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// What it says in the conversation so far; nothing in a new one.
    AsBefore,
    /// This or nothing, in place of what the conversation had.
    These(Option<String>),
}

impl Instructions {
    /// What a new conversation begins with.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::AsBefore => None,
            Self::These(text) => text.as_deref(),
        }
    }

    /// Puts them before the messages. Where they differ, the engine reads everything again.
    pub(super) fn replace(&self, transcript: &mut Transcript) {
        let Self::These(new) = self else { return };
        if transcript.instructions != *new {
            transcript.instructions.clone_from(new);
            transcript.begin_again();
        }
    }
}

/// A text to go on with, validated: no messages, and no conversation afterwards.
#[derive(Debug, Clone)]
pub(crate) struct TextRequest {
    pub(crate) options: TurnOptions,
    pub(crate) prompt: String,
}
