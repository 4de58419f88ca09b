//! The tokens that begin with certain bytes.

use std::sync::Arc;

use crate::tokens::Tokens;

/// Ids that texts are written with, ordered by their bytes.
pub(super) struct TextIds(Vec<u32>);

impl TextIds {
    /// The ids of a tokenizer, sorted when they are first asked for.
    pub(super) fn of(tokens: &Tokens) -> Arc<Self> {
        tokens.derived(|| {
            let ids = 0..tokens.ids();
            let mut ids: Vec<u32> = ids.filter(|&id| tokens.is_text(id)).collect();
            ids.sort_by_key(|&id| tokens.bytes(id));
            Self(ids)
        })
    }

    /// All tokens that texts are written with.
    pub(super) fn words<'a>(&'a self, tokens: &'a Tokens) -> Words<'a> {
        Words {
            tokens,
            ids: &self.0,
            depth: 0,
        }
    }
}

/// The tokens that begin with the bytes that led here, of all that texts are written with.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    tokens: &'a Tokens,
    /// Ordered by their bytes.
    ids: &'a [u32],
    /// How many bytes led here.
    depth: usize,
}

impl<'a> Words<'a> {
    /// The tokens that go on with this byte.
    pub(super) fn then(&self, byte: u8) -> Self {
        // One that ends here is before all that go on.
        let next = |id: &u32| {
            self.tokens
                .bytes(*id)
                .and_then(|bytes| bytes.get(self.depth))
        };
        let from = self.ids.partition_point(|id| next(id) < Some(&byte));
        let to = self.ids.partition_point(|id| next(id) <= Some(&byte));
        Self {
            ids: &self.ids[from..to],
            depth: self.depth + 1,
            ..*self
        }
    }

    /// The tokens that end here.
    pub(super) fn whole(&self) -> &'a [u32] {
        let ends = |id: &u32| {
            self.tokens
                .bytes(*id)
                .is_some_and(|b| b.len() == self.depth)
        };
        &self.ids[..self.ids.partition_point(ends)]
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
