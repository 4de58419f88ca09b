//! What names the passage of a block, and where a block came from.

use crate::tokens::splice::Passage;

/// The passage that a block was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PassageName {
    /// Its id in its collection.
    pub(crate) id: String,
    /// [`Passage::text_digest`].
    pub(crate) text: blake3::Hash,
}

impl PassageName {
    pub(crate) fn of(passage: &Passage) -> Self {
        Self {
            id: passage.id.clone(),
            text: passage.text_digest(),
        }
    }
}

/// Where a splice's keys and values came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PassageKvSource {
    /// They were computed for this splice.
    Computed,
    /// They were kept in memory.
    Memory,
    /// They were kept on the disk.
    Disk,
}
