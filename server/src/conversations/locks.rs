//! A lock for each conversation that is being changed.

use std::sync::Arc;

use dashmap::DashMap;
use onegen_engine::ConversationId;
use parking_lot::Mutex;

/// Lets changes of one conversation come one after another, and changes of different conversations at
/// once: a change writes a file, for which nobody else should wait.
#[derive(Default)]
pub(super) struct ConversationLocks {
    /// The locks that somebody holds or waits for.
    locks: DashMap<ConversationId, Arc<Mutex<()>>>,
}

impl ConversationLocks {
    /// Makes a change while nobody else changes this conversation. `change` must not lock another one.
    pub(super) fn alone<T>(&self, id: &ConversationId, change: impl FnOnce() -> T) -> T {
        let lock = Arc::clone(&self.locks.entry(id.clone()).or_default());
        let changed = {
            let _alone = lock.lock();
            change()
        };
        drop(lock);
        // The map hands out clones under its own lock only, so a count of one means that nobody waits.
        self.locks
            .remove_if(id, |_, lock| Arc::strong_count(lock) == 1);
        changed
    }
}
