//! When what happened to a turn, as the engine measured it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a turn is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnPhase {
    /// It waits for the first step that forwards of it.
    Queue,
    /// The store reads its KV-cache.
    Restore,
    /// What its KV-cache lacks of the prompt is forwarded.
    Prefill,
    /// Tokens are sampled and forwarded, one by one.
    Decode,
    /// The retriever is asked, from the query embedding to the answer.
    Retrieval,
    /// A passage is appended and forwarded, up to its first logits.
    Splice,
}

/// A stretch of a turn's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseTime {
    /// What happened.
    pub phase: TurnPhase,
    /// When it began.
    pub began: Instant,
    /// When it ended; `None` while it lasts.
    pub ended: Option<Instant>,
}

/// The phases of a turn, written by the step thread and read by anyone. Clones show the same turn.
///
/// **Invariant:** they follow one another without a gap, from the turn's acceptance to its last token.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    phases: Arc<Mutex<Vec<PhaseTime>>>,
}

impl Timeline {
    /// The phases so far, in order. A turn that found a passage is in [`TurnPhase::Retrieval`] and
    /// [`TurnPhase::Splice`] once for each of its receipts, and in `Retrieval` alone where nothing was
    /// found.
    pub fn phases(&self) -> Vec<PhaseTime> {
        self.lock().clone()
    }

    /// Ends the phase that lasts and begins the next.
    pub(crate) fn begin(&self, phase: TurnPhase, began: Instant) {
        let mut phases = self.lock();
        end(&mut phases, began);
        phases.push(PhaseTime {
            phase,
            began,
            ended: None,
        });
    }

    /// Ends the turn's last phase.
    pub(crate) fn end(&self, ended: Instant) {
        end(&mut self.lock(), ended);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PhaseTime>> {
        // Nothing in here panics halfway through a change.
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(phases: &mut [PhaseTime], at: Instant) {
    if let Some(last) = phases.last_mut() {
        last.ended.get_or_insert(at);
    }
}
