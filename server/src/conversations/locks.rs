//! A lock for each conversation that is being changed.

use std::sync::Arc;

use dashmap::DashMap;
use onegen_engine::ConversationId;
use parking_lot::Mutex;

/// Changes of one conversation happen one after another, and changes of different conversations at
/// the same time. A change writes a file, and other conversations should not wait for that.
#[derive(Default)]
pub(super) struct ConversationLocks {
    /// The locks that are held or waited for.
    locks: DashMap<ConversationId, Arc<Mutex<()>>>,
}

impl ConversationLocks {
    /// Runs `change` while no other change of this conversation runs. `change` must not lock another
    /// conversation.
    pub(super) fn alone<T>(&self, id: &ConversationId, change: impl FnOnce() -> T) -> T {
        let lock = Arc::clone(&self.locks.entry(id.clone()).or_default());
        let changed = {
            let _alone = lock.lock();
            change()
        };
        drop(lock);
        // Clones are made only under the map's lock, so a count of one means that no thread waits.
        self.locks
            .remove_if(id, |_, lock| Arc::strong_count(lock) == 1);
        changed
    }
}
