//! A passage block on its own. Its keys, values and embedding are the same in every conversation.

use std::fmt;

use super::decoder::WantedRows;
use super::embed::EmbeddedText;
use super::span::{Span, SpanCache};
use super::{KvCache, Model};
use crate::error::ForwardError;
use crate::model::normalise::normalised;
use crate::tokens::passage_block::Run;

/// The name of a block: the digest of its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockDigest(blake3::Hash);

impl BlockDigest {
    pub(crate) fn of(ids: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        Self(hasher.finalize())
    }

    pub(crate) fn to_hex(self) -> String {
        self.0.to_hex().to_string()
    }

    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(Self)
    }

    /// What stands before a block's bytes where they are kept with its passage: it is another for every block and
    /// for every model.
    fn prefix(self, made_by: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes()).update(made_by.as_bytes());
        hasher.finalize().into()
    }
}

/// Keys and values of one passage block, and its embedding.
///
/// **Invariant:** they come from a forward of the block as a text of its own, and the keys are rotated to
/// positions only where the block lands. So they depend only on the block's ids and the model (on the CPU
/// bit for bit), and a block that was kept gives the same result as one that is computed where it is
/// spliced.
#[derive(Clone, PartialEq)]
pub struct PassageKv {
    /// For each layer its keys, which are not rotated, and then its values, as [`KvCache::layer_rows`] gives them.
    pub(super) layers: Vec<Vec<u8>>,
    /// Tokens of the block.
    pub(super) len: usize,
    embedding: Vec<f32>,
}

impl PassageKv {
    #[cfg(test)]
    pub(crate) fn from_parts(layers: Vec<Vec<u8>>, len: usize, embedding: Vec<f32>) -> Self {
        Self {
            layers,
            len,
            embedding,
        }
    }

    /// Three numbers (tokens, components of the embedding, layers; u32), the embedding (f32), and keys and values
    /// layer by layer, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let sizes = [self.len, self.embedding.len(), self.layers.len()];
        let mut bytes = Vec::with_capacity(size_of_val(&sizes) + self.bytes());
        for size in sizes {
            // A block has fewer tokens than a model has positions, and these fit into u32.
            bytes.extend_from_slice(&(size as u32).to_le_bytes());
        }
        for number in &self.embedding {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.layers.iter().for_each(|rows| bytes.extend(rows));
        bytes
    }

    /// Reads back what [`Self::to_bytes`] gave; `None` if it is something else. That the rows fit a cache is
    /// checked where they are spliced.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sizes, rest) = bytes.split_first_chunk::<12>()?;
        let [len, width, layers] = [0, 4, 8].map(|at| {
            let size = [sizes[at], sizes[at + 1], sizes[at + 2], sizes[at + 3]];
            u32::from_le_bytes(size) as usize
        });
        let (embedding, rows) = rest.split_at_checked(width.checked_mul(size_of::<f32>())?)?;
        let (embedding, _) = embedding.as_chunks();
        let layer = rows.len().checked_div(layers)?.max(1);
        Some(Self {
            layers: rows.chunks_exact(layer).map(<[u8]>::to_vec).collect(),
            len,
            embedding: embedding
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        })
    }

    /// The bytes that are kept with a passage, whose block has the name `block`. `made_by` identifies the model
    /// and kernels.
    fn to_kept(&self, made_by: &str, block: BlockDigest) -> Vec<u8> {
        [&block.prefix(made_by)[..], &self.to_bytes()].concat()
    }

    /// Reads what [`Model::embed_texts_with_kv`] gave, if it is the block's and was made by this model.
    pub(crate) fn from_kept(bytes: &[u8], made_by: &str, block: BlockDigest) -> Option<Self> {
        let bytes = bytes.strip_prefix(&block.prefix(made_by))?;
        Self::from_bytes(bytes)
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

    /// What [`Model::embed_texts_with_kv`] gives of a block. `ids` are the block's, and `made_by` identifies the
    /// model and kernels.
    pub(super) fn to_kept(&self, made_by: &str, ids: &[u32]) -> Result<EmbeddedText, ForwardError> {
        let kv = self.to_kv()?;
        Ok(EmbeddedText {
            kv: Some(kv.to_kept(made_by, BlockDigest::of(ids))),
            embedding: kv.embedding,
        })
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
