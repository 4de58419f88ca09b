//! How far the indexing of collections is.

use onegen_proto::CollectionIndexing;
use parking_lot::Mutex;

/// What is indexed at the moment, shared by who indexes and who shows it.
#[derive(Debug, Default)]
pub struct IndexingProgress(Mutex<Option<CollectionIndexing>>);

impl IndexingProgress {
    pub(super) fn set(&self, now: CollectionIndexing) {
        *self.0.lock() = Some(now);
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// `None` while nothing is indexed.
    pub(crate) fn now(&self) -> Option<CollectionIndexing> {
        self.0.lock().clone()
    }
}
