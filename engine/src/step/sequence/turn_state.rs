//! What every turn has while it runs, whatever its task is.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use crate::conversations::Conversation;
use crate::counters::ForwardedTokens;
use crate::error::EngineError;
use crate::ids::SequenceId;
use crate::tokens::Tokens;
use crate::turn::events::{Event, FinishReason, Usage};
use crate::turn::timeline::Timeline;

/// Limits and tables that all sequences share.
pub(crate) struct Rules {
    pub(crate) tokens: Arc<Tokens>,
    /// For each id whether sampling never yields it.
    pub(crate) never_sampled: Vec<bool>,
    /// Positions that a sequence may hold.
    pub(crate) context: usize,
}

/// The conversation that a turn extends, what the turn has used, and where its events go.
pub(crate) struct TurnState {
    pub(crate) id: SequenceId,
    /// Owned from the turn's start to its end.
    pub(crate) conversation: Conversation,
    pub(super) usage: Usage,
    pub(super) forwarded: ForwardedTokens,
    pub(super) timeline: Timeline,
    pub(super) events: UnboundedSender<Event>,
}

impl TurnState {
    pub(super) fn emit(&self, event: Event) {
        // A client that went away is cancelled by its turn's drop.
        let _ = self.events.send(event);
    }
}

/// What some of a sequence's pending tokens are forwarded for, as offsets into them.
#[derive(Debug, Default)]
pub(crate) struct WantedOffsets {
    /// Where the hidden state is wanted: at `[RQ]` or `[LK]`.
    pub(crate) hidden: Vec<usize>,
    /// Where logits are wanted, to choose the next token from.
    pub(crate) logits: Vec<usize>,
}

/// What a sequence does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// It has tokens to forward, or is parked.
    GoOn,
    /// It is over.
    Finish(FinishReason),
    /// It cannot go on.
    Fail(EngineError),
}
