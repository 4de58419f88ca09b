//! A passage block on its own. Its keys, values and embedding are the same in every conversation.

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
#[derive(Debug)]
pub struct PassageKv {
    /// Its keys are not rotated.
    kv: KvCache,
    embedding: Vec<f32>,
}

impl PassageKv {
    /// Makes it from a block's whole cache and the state at its last token.
    pub(super) fn new(kv: KvCache, state: Vec<f32>) -> Self {
        Self {
            kv,
            embedding: normalised(state),
        }
    }

    /// The block's tokens: `passage_open`, the passage and `passage_token`.
    #[allow(clippy::len_without_is_empty)] // There are always two markers.
    pub fn len(&self) -> usize {
        self.kv.len()
    }

    /// Bytes allocated for keys and values.
    pub fn bytes(&self) -> usize {
        self.kv.bytes()
    }

    /// The passage's embedding, [`Model::hidden_size`] numbers of length 1.
    pub fn embedding(&self) -> &[f32] {
        &self.embedding
    }

    /// The embedding alone.
    pub fn into_embedding(self) -> Vec<f32> {
        self.embedding
    }
}

impl Model {
    /// Forwards passage blocks, each on its own: its ids come from [`crate::Tokens::passage_ids`]. All are
    /// forwarded together.
    ///
    /// # Errors
    /// The model has no block attention, a passage is not a passage block or is longer than the
    /// model's positions, or the forward failed.
    pub fn passage_kv(&self, passages: &[Vec<u32>]) -> Result<Vec<PassageKv>, ForwardError> {
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
                PassageKv::new(kv, state)
            })
            .collect())
    }

    /// Appends a passage block to a sequence's cache. Its keys are rotated to the positions where they
    /// land, and nothing is forwarded. The cache then holds what a forward of the block's ids at this
    /// place would have written.
    ///
    /// # Errors
    /// The cache belongs to another model, ends within a passage block, or would be longer than the
    /// model's positions; or the tensor library failed. The cache has not grown then.
    pub fn splice(&self, cache: &mut KvCache, passage: &PassageKv) -> Result<(), ForwardError> {
        if !(cache.fits(&self.config) && passage.kv.fits(&self.config)) {
            return Err(ForwardError::Input("the KV-cache of another model".into()));
        }
        if cache.open_len() > 0 {
            return Err(ForwardError::Input("a passage within another".into()));
        }
        let (at, len) = (cache.len(), passage.len());
        self.check_positions(at + len)?;
        cache.reserve(at + len)?;
        let (text, block) = (&mut *cache.store, &*passage.kv.store);
        self.decoder.land(text, at, block, len)?;
        cache.grow(len);
        Ok(())
    }
}
