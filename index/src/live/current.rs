//! The snapshot that is current.

use std::mem;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::live::snapshot::Snapshot;

/// What searches see now. Held for as long as it takes to clone or to replace a pointer.
pub(crate) struct Current(RwLock<Arc<Snapshot>>);

impl Current {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(RwLock::new(Arc::new(snapshot)))
    }

    pub(crate) fn get(&self) -> Arc<Snapshot> {
        self.0.read().clone()
    }

    pub(crate) fn replace(&self, snapshot: Snapshot) {
        let mut current = self.0.write();
        let old = mem::replace(&mut *current, Arc::new(snapshot));
        drop(current);
        // Freeing what only the old one held can take a while; nobody waits for it.
        drop(old);
    }
}
