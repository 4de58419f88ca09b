//! A ragged batch as the decoders see it: spans of rows, each over its own cache.

/// Rows of one batch that stand behind one another in one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first row.
    pub(crate) start: usize,
    /// How many rows.
    pub(crate) len: usize,
    /// Which of the batch's caches they are written to. It has room for them.
    pub(crate) cache: usize,
    /// Positions that it holds before.
    pub(crate) past: usize,
    /// What the cache holds.
    pub(crate) of: SpanCache,
}

/// What a span's cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpanCache {
    /// A text, its keys turned to their positions.
    Text,
    /// A passage block alone, its keys not turned to any position. The rows see each other and what the
    /// cache holds, as a text of their own would.
    Passage {
        /// Where the block is written to, too, once these rows complete it.
        lands: Option<Landing>,
    },
}

/// A place for a passage block in a text. The text's spans behind it see it in the same forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landing {
    /// Which of the batch's caches: one that stands before the passage's own. It has room.
    pub(crate) cache: usize,
    /// The position of the block's first token.
    pub(crate) at: usize,
}

impl Span {
    /// Positions that the cache holds afterwards.
    pub(crate) fn end(&self) -> usize {
        self.past + self.len
    }
}
