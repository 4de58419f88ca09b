//! A passage block on its own. Its keys, values and embedding are the same in every conversation.

use std::fmt;

use super::decoder::WantedRows;
use super::span::{Span, SpanCache};
use super::{KvCache, Model};
use crate::error::ForwardError;
use crate::model::normalise::normalised;
use crate::tokens::passage_block::Run;

/// Keys and values of one passage block, and its embedding.
///
/// **Invariant:** they come from a forward of the block as a text of its own, and the keys are rotated to
/// positions only where the block lands. So they depend only on the block's ids and the model (on the CPU
/// bit for bit), and a block that was kept gives the same result as one that is computed where it is
/// spliced.
#[derive(Clone, PartialEq)]
pub struct PassageKv {
    /// See [`Self::layers`].
    pub(super) layers: Vec<Vec<u8>>,
    /// Tokens of the block.
    pub(super) len: usize,
    embedding: Vec<f32>,
}

impl PassageKv {
    /// What was written down of a block that has `len` tokens; see [`Self::layers`].
    pub(crate) fn from_parts(layers: Vec<Vec<u8>>, len: usize, embedding: Vec<f32>) -> Self {
        Self {
            layers,
            len,
            embedding,
        }
    }

    /// For each layer its keys, which are not rotated, and then its values, as [`KvCache::layer_rows`] gives
    /// them.
    pub(crate) fn layers(&self) -> &[Vec<u8>] {
        &self.layers
    }

    /// The block's tokens: `passage_open`, the passage and `passage_token`.
    #[allow(clippy::len_without_is_empty)] // There are always two markers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of keys, values and embedding.
    pub fn bytes(&self) -> usize {
        let rows: usize = self.layers.iter().map(Vec::len).sum();
        rows + size_of_val(self.embedding.as_slice())
    }

    /// The passage's embedding, [`Model::hidden_size`] numbers of length 1.
    pub fn embedding(&self) -> &[f32] {
        &self.embedding
    }
}

impl fmt::Debug for PassageKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassageKv")
            .field("len", &self.len)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// A passage block that a forward has completed, still in the cache that the forward wrote.
#[derive(Debug)]
pub struct PassageBlock {
    /// Its keys are not rotated.
    kv: KvCache,
    /// The state at its last token.
    state: Vec<f32>,
}

impl PassageBlock {
    pub(super) fn new(kv: KvCache, state: Vec<f32>) -> Self {
        Self { kv, state }
    }

    /// The passage's embedding, [`Model::hidden_size`] numbers of length 1.
    pub fn into_embedding(self) -> Vec<f32> {
        normalised(self.state)
    }

    /// Copies the block for later splices.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn to_kv(&self) -> Result<PassageKv, ForwardError> {
        let len = self.kv.len();
        let layers =
            (0..self.kv.store.layers()).map(|layer| self.kv.store.layer_rows(layer, 0..len));
        Ok(PassageKv {
            layers: layers.collect::<Result<_, _>>()?,
            len,
            embedding: normalised(self.state.clone()),
        })
    }
}

impl Model {
    /// Forwards passage blocks, each on its own: its ids come from [`crate::Tokens::passage_ids`]. All are
    /// forwarded together.
    ///
    /// # Errors
    /// The model has no block attention, a passage is not a passage block or is longer than the
    /// model's positions, or the forward failed.
    pub fn passage_blocks(&self, passages: &[Vec<u32>]) -> Result<Vec<PassageBlock>, ForwardError> {
        let Some(marks) = self.tokens.block_marks() else {
            return Err(ForwardError::Input(
                "a passage block for a model without block attention".into(),
            ));
        };
        let mut caches = Vec::with_capacity(passages.len());
        let mut spans = Vec::with_capacity(passages.len());
        let mut wanted = WantedRows::default();
        let mut start = 0;
        for (cache, ids) in passages.iter().enumerate() {
            self.check_ids(ids, 0)?;
            let runs = marks.runs(false, ids).map_err(ForwardError::Input)?;
            let [
                Run::Passage {
                    len,
                    complete: true,
                },
            ] = runs[..]
            else {
                return Err(ForwardError::Input(
                    "ids that are not one passage block".into(),
                ));
            };
            let mut kv = self.new_cache();
            kv.reserve(len)?;
            caches.push(kv);
            let of = SpanCache::Passage { lands: None };
            spans.push(Span {
                start,
                len,
                cache,
                past: 0,
                of,
            });
            start += len;
            wanted.hidden.push((start - 1) as u32);
        }
        let stores = caches.iter_mut().flat_map(KvCache::stores).collect();
        let (states, _) = self
            .decoder
            .forward(&passages.concat(), &spans, stores, &wanted)?;
        let done = caches.into_iter().zip(&spans).zip(states);
        Ok(done
            .map(|((mut kv, span), state)| {
                kv.grow(span.len);
                PassageBlock::new(kv, state)
            })
            .collect())
    }

    /// [`Model::passage_blocks`], copied for later splices.
    ///
    /// # Errors
    /// As [`Model::passage_blocks`].
    pub fn passage_kv(&self, passages: &[Vec<u32>]) -> Result<Vec<PassageKv>, ForwardError> {
        let blocks = self.passage_blocks(passages)?;
        blocks.iter().map(PassageBlock::to_kv).collect()
    }

    /// Appends a passage block to a sequence's cache. Its keys are rotated to the positions where they
    /// land, and nothing is forwarded. The cache then holds what a forward of the block's ids at this
    /// place would have written.
    ///
    /// # Errors
    /// The cache or the block belongs to another model, the cache ends within a passage block, or would be longer
    /// than the model's positions; or the tensor library failed. The cache has not grown then.
    pub fn splice(&self, cache: &mut KvCache, passage: &PassageKv) -> Result<(), ForwardError> {
        let position = cache.layer_bytes();
        let fits = passage.layers.len() == self.config.num_hidden_layers
            && passage
                .layers
                .iter()
                .all(|rows| rows.len() == position * passage.len);
        if !(cache.fits(&self.config) && fits) {
            return Err(ForwardError::Input("the KV-cache of another model".into()));
        }
        if cache.open_len() > 0 {
            return Err(ForwardError::Input("a passage within another".into()));
        }
        let (at, len) = (cache.len(), passage.len());
        self.check_positions(at + len)?;
        cache.reserve(at + len)?;
        self.decoder.land(&mut *cache.store, at, &passage.layers)?;
        cache.grow(len);
        Ok(())
    }
}
