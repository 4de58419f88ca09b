//! What the step thread is asked to do.

use tokio::sync::oneshot;

use crate::conversations::ConversationInfo;
use crate::error::{ConversationError, SubmitError};
use crate::ids::{ConversationId, SequenceId};
use crate::model::KvCache;
use crate::step::sequence::UnstoredTurn;
use crate::tokens::token_log::TokenLog;
use crate::turn::events::Turn;
use crate::turn::request::Task;
use crate::turn::retrieval::SearchOutcome;

/// A command to the step thread. Answers go back through `reply`; one that nobody waits for any
/// more is dropped.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        task: Task,
        reply: oneshot::Sender<Result<Turn, SubmitError>>,
    },
    Cancel(SequenceId),
    Retrieved(SearchOutcome),
    /// What the store has read for a sequence.
    Restored {
        sequence: SequenceId,
        cache: KvCache,
    },
    Look {
        id: ConversationId,
        reply: oneshot::Sender<Option<ConversationInfo>>,
    },
    Delete {
        id: ConversationId,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Fork {
        from: ConversationId,
        to: ConversationId,
        len: Option<usize>,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Rewind {
        id: ConversationId,
        len: usize,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    Import {
        id: ConversationId,
        log: TokenLog,
        reply: oneshot::Sender<Result<(), ConversationError>>,
    },
    /// The store could not write the end of a turn.
    NotStored(UnstoredTurn),
    List {
        reply: oneshot::Sender<Vec<ConversationId>>,
    },
    Shutdown,
}
