//! The interface of the two decoders: a ragged batch goes in, states and logits come out, and keys and
//! values are kept in a store of the decoder's own kind.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;

use super::span::Span;
use crate::config::ModelConfig;
use crate::error::ForwardError;

/// Rows of numbers.
pub(super) type RowVecs = Vec<Vec<f32>>;

/// The rows of a batch whose states or logits are wanted.
#[derive(Debug, Default)]
pub(super) struct WantedRows {
    pub(super) hidden: Vec<u32>,
    pub(super) logits: Vec<u32>,
}

/// Embedding, layers, final norm and head.
pub(super) trait Decoder: Send + Sync {
    /// An empty store for one sequence.
    fn new_store(&self) -> Box<dyn KvStore>;

    /// Forwards the new tokens of all spans and writes their keys and values into the stores. Returns
    /// the states after the final norm and the logits, each for the rows where they are wanted.
    ///
    /// # Errors
    /// A store belongs to another decoder, or the tensor library failed.
    fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        stores: Vec<&mut dyn KvStore>,
        wanted: &WantedRows,
    ) -> Result<(RowVecs, RowVecs), ForwardError>;

    /// Writes a passage block, whose keys are not rotated yet, into a text's store from position `at` on. For
    /// each layer it has what [`KvStore::layer_rows`] gives of the block's positions.
    ///
    /// # Errors
    /// A store belongs to another decoder, or the tensor library failed.
    fn land(
        &self,
        text: &mut dyn KvStore,
        at: usize,
        layers: &[Vec<u8>],
    ) -> Result<(), ForwardError>;
}

/// Keys and values of one sequence, all layers of them, in blocks of [`BLOCK`](super::BLOCK) positions.
pub(crate) trait KvStore: Any + Debug + Send + Sync {
    /// How many blocks there is room for.
    fn blocks(&self) -> usize;

    /// Bytes of one block.
    fn block_bytes(&self) -> usize;

    /// Makes room for `blocks` blocks, or frees those that are not needed. The first `len`
    /// positions are kept.
    ///
    /// # Errors
    /// The tensor library failed. Nothing has changed then.
    fn resize(&mut self, blocks: usize, len: usize) -> Result<(), ForwardError>;

    /// Gives all memory back.
    fn clear(&mut self);

    /// A store for another sequence that starts with this one's first `len` positions, in `blocks` blocks.
    ///
    /// # Errors
    /// The tensor library failed.
    fn fork(&self, blocks: usize, len: usize) -> Result<Box<dyn KvStore>, ForwardError>;

    /// How many layers there are.
    fn layers(&self) -> usize;

    /// Bytes of one position in one layer, outside of the store: a key and a value for each head.
    fn layer_bytes(&self) -> usize;

    /// Rows of one position in [`Self::layer_rows`]: a key and a value for each KV head.
    fn layer_row_count(&self) -> usize;

    /// One layer's keys, then its values, each `(kv_heads, positions)` and as the store keeps them: a head's
    /// numbers, little-endian, and then their scales if their type has any. On other devices than the CPU they
    /// are f32.
    ///
    /// # Errors
    /// The tensor library failed.
    fn layer_rows(&self, layer: usize, positions: Range<usize>) -> Result<Vec<u8>, ForwardError>;

    /// Writes back what [`Self::layer_rows`] returned, bit for bit.
    ///
    /// # Errors
    /// The tensor library failed.
    fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[u8],
    ) -> Result<(), ForwardError>;

    /// Whether this store was made for a model with this configuration.
    fn fits(&self, config: &ModelConfig) -> bool;
}

/// A store as the kind that a decoder writes to.
///
/// # Errors
/// The store belongs to another decoder.
#[cfg(feature = "mistralrs")]
pub(super) fn downcast<S: KvStore>(store: &dyn KvStore) -> Result<&S, ForwardError> {
    let any: &dyn Any = store;
    any.downcast_ref().ok_or_else(foreign_store)
}

/// [`downcast`] for a store that is written to.
pub(super) fn downcast_mut<S: KvStore>(store: &mut dyn KvStore) -> Result<&mut S, ForwardError> {
    let any: &mut dyn Any = store;
    any.downcast_mut().ok_or_else(foreign_store)
}

fn foreign_store() -> ForwardError {
    ForwardError::Input("the KV-cache of another decoder".into())
}
