//! A ragged batch as the decoders get it: spans of rows, each with its own cache.

/// Rows of one batch that follow one another in one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first row.
    pub(crate) start: usize,
    /// How many rows.
    pub(crate) len: usize,
    /// The index of the batch's cache that they are written to. It has room for them.
    pub(crate) cache: usize,
    /// Positions that the cache holds before.
    pub(crate) past: usize,
    /// What the cache holds.
    pub(crate) of: SpanCache,
}

/// What a span's cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpanCache {
    /// A text. Its keys are rotated to their positions.
    Text,
    /// A passage block alone. Its keys are not rotated. The rows see each other and the cache's
    /// content, as a text of its own would.
    Passage {
        /// Where the block lands if these rows complete it.
        lands: Option<Landing>,
    },
}

/// The place in a text where a passage block lands. The text's spans after it see it in the same
/// forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landing {
    /// The index of the text's cache, which comes before the passage's own. It has room for the
    /// block.
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
