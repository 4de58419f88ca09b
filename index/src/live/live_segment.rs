//! A segment as one snapshot sees it.

use std::sync::Arc;

use crate::filter::Filter;
use crate::filter::bitset::Bitset;
use crate::segment::Segment;
use crate::segment::passages::IdDigest;

/// A segment and which of its passages are deleted in this state.
#[derive(Clone)]
pub(crate) struct LiveSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) deleted: Arc<Bitset>,
    pub(crate) deletions: u32,
}

impl LiveSegment {
    pub(crate) fn new(segment: Arc<Segment>, deleted: Bitset) -> Self {
        Self {
            segment,
            deletions: deleted.count() as u32,
            deleted: Arc::new(deleted),
        }
    }

    /// Number of passages that are not deleted.
    pub(crate) fn passages(&self) -> u32 {
        self.segment.record().passages - self.deletions
    }

    /// The row of the passage with an id's digest, unless it is deleted.
    pub(crate) fn find(&self, id: &IdDigest) -> Option<u32> {
        let row = self.segment.find(id)?;
        (!self.deleted.test(row)).then_some(row)
    }

    pub(crate) fn delete(&mut self, row: u32) {
        if !self.deleted.test(row) {
            Arc::make_mut(&mut self.deleted).set(row);
            self.deletions += 1;
        }
    }

    /// The rows that a search may find; `None` for all.
    pub(crate) fn allowed(&self, filter: Option<&Filter>) -> Option<Bitset> {
        if filter.is_none() && self.deletions == 0 {
            return None;
        }
        let mut allowed = self.segment.select(filter);
        allowed.and_not(&self.deleted);
        Some(allowed)
    }

    /// Rows of the passages that are not deleted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = u32> {
        let rows = 0..self.segment.record().passages;
        rows.filter(|&row| !self.deleted.test(row))
    }
}
