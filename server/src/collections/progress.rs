//! How far the indexing of collections is.

use parking_lot::Mutex;

/// What is indexed at the moment, shared by who indexes and who shows it.
#[derive(Debug, Default)]
pub struct IndexingProgress(Mutex<Option<IndexedSoFar>>);

/// How much of a collection is indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexedSoFar {
    pub(crate) collection: String,
    pub(crate) passages: u64,
    /// Of the corpus' bytes.
    pub(crate) percent: u64,
}

impl IndexingProgress {
    pub(super) fn set(&self, now: IndexedSoFar) {
        *self.0.lock() = Some(now);
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// `None` while nothing is indexed.
    pub(crate) fn now(&self) -> Option<IndexedSoFar> {
        self.0.lock().clone()
    }
}
