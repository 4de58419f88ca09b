//! The KV-cache of one sequence: keys and values of every layer for the positions forwarded.

use std::ops::Range;

use super::decoder::KvStore;
use crate::config::ModelConfig;
use crate::error::ForwardError;
use crate::tokens::passage_block::Run;

/// Positions are allocated in blocks of this many.
pub(crate) const BLOCK: usize = 128;

/// Keys and values of one sequence. They can be rebuilt by forwarding the token log again.
#[derive(Debug)]
pub struct KvCache {
    /// A store of the kind that the model's decoder writes to.
    pub(super) store: Box<dyn KvStore>,
    /// How many positions have their keys and values in `store`.
    landed: usize,
    /// Passage blocks after these positions, each in a cache of its own. Only block attention
    /// creates them.
    ///
    /// **Invariant:** between two forwards there is at most one, and it is not complete. So a cache
    /// that ends within a block always holds the beginning of that block, which the rest of the block
    /// must see.
    passages: Vec<KvCache>,
}

impl KvCache {
    /// A cache without any positions, kept in an empty store.
    pub(super) fn new(store: Box<dyn KvStore>) -> Self {
        Self {
            store,
            landed: 0,
            passages: Vec::new(),
        }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.landed + self.open_len()
    }

    /// True when no position is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions before the incomplete passage block, or all positions if there is none.
    pub(crate) fn landed(&self) -> usize {
        self.landed
    }

    /// Positions of the incomplete passage block, 0 if there is none.
    pub(crate) fn open_len(&self) -> usize {
        self.passages.first().map_or(0, Self::len)
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        let passages = self.passages.iter().map(Self::bytes);
        self.block_bytes() * self.blocks() + passages.sum::<usize>()
    }

    /// Bytes allocated once `positions` are held, rounded up to whole blocks.
    pub fn bytes_for(&self, positions: usize) -> usize {
        self.block_bytes() * positions.div_ceil(BLOCK)
    }

    /// Bytes allocated after a forward that leaves `landed` positions and then `open` positions of an
    /// incomplete passage block, 0 if there is none.
    pub(crate) fn bytes_after(&self, landed: usize, open: usize) -> usize {
        match open {
            0 => self
                .bytes_for(landed)
                .max(self.block_bytes() * self.blocks()),
            open => self.bytes_for(landed) + self.bytes_for(open),
        }
    }

    /// How many positions fit into `bytes`, in whole blocks.
    pub(crate) fn positions_in(&self, bytes: usize) -> usize {
        bytes / self.block_bytes() * BLOCK
    }

    /// Forgets all positions from `len` on; their memory is kept for new positions. An incomplete passage
    /// block that reaches beyond `len` is forgotten entirely.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.passages.clear();
            self.landed = self.landed.min(len);
        }
    }

    /// Forgets all positions and gives the memory back.
    pub fn clear(&mut self) {
        self.store.clear();
        self.landed = 0;
        self.passages.clear();
    }

    /// Makes room for `positions` positions in total.
    pub(crate) fn reserve(&mut self, positions: usize) -> Result<(), ForwardError> {
        let blocks = positions.div_ceil(BLOCK);
        if blocks <= self.blocks() {
            return Ok(());
        }
        self.store.resize(blocks, self.landed)
    }

    /// Gives back the memory behind the first `positions`.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn give_back(&mut self, positions: usize) -> Result<(), ForwardError> {
        let blocks = positions.div_ceil(BLOCK);
        if blocks >= self.blocks() {
            return Ok(());
        }
        self.store.resize(blocks, self.landed)
    }

    /// A cache for another sequence that holds this one's first `len` positions. An incomplete passage
    /// block is not included. On the CPU whole blocks are shared until one of the two caches writes to
    /// them; each cache counts them as its own.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn fork(&self, len: usize) -> Result<Self, ForwardError> {
        let len = len.min(self.landed);
        let blocks = len.div_ceil(BLOCK);
        Ok(Self {
            landed: len,
            ..Self::new(self.store.fork(blocks, len)?)
        })
    }

    /// Layers whose keys and values are held.
    pub(crate) fn layers(&self) -> usize {
        self.store.layers()
    }

    /// Bytes of one position in one layer, outside of the cache.
    pub(crate) fn layer_bytes(&self) -> usize {
        self.store.layer_bytes()
    }

    /// Rows of one position in [`Self::layer_rows`]: a key and a value for each KV head.
    pub(crate) fn layer_row_count(&self) -> usize {
        self.store.layer_row_count()
    }

    /// One layer's keys, then its values, as [`KvStore::layer_rows`] gives them.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn layer_rows(
        &self,
        layer: usize,
        positions: Range<usize>,
    ) -> Result<Vec<u8>, ForwardError> {
        self.store.layer_rows(layer, positions)
    }

    /// Writes back what [`Self::layer_rows`] returned, into room that is allocated already. The
    /// positions count as held once all layers are written and [`Self::grow`] was called.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[u8],
    ) -> Result<(), ForwardError> {
        self.store.set_layer_rows(layer, positions, rows)
    }

    /// Counts `new` more positions as held, once every layer has written them.
    pub(crate) fn grow(&mut self, new: usize) {
        self.landed += new;
    }

    /// Makes room for `positions` of a passage block: a new one, or the incomplete one.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn open(&mut self, new: Option<Self>, positions: usize) -> Result<(), ForwardError> {
        self.passages.extend(new);
        match self.passages.last_mut() {
            Some(passage) => passage.reserve(positions),
            None => Ok(()),
        }
    }

    /// The stores of this cache and of its passage blocks, in this order.
    pub(super) fn stores(&mut self) -> impl Iterator<Item = &mut dyn KvStore> {
        let passages = self.passages.iter_mut();
        let passages = passages.map(|passage| &mut *passage.store);
        std::iter::once(&mut *self.store).chain(passages)
    }

    /// Counts the positions that a forward has written, and returns the passage blocks that it
    /// completed.
    pub(crate) fn grow_by(&mut self, runs: &[Run]) -> Vec<Self> {
        let mut complete = Vec::new();
        for run in runs {
            match *run {
                Run::Text(len) => self.landed += len,
                Run::Passage {
                    len,
                    complete: ends,
                } => {
                    self.passages[0].grow(len);
                    if ends {
                        let passage = self.passages.remove(0);
                        self.landed += passage.len();
                        complete.push(passage);
                    }
                }
            }
        }
        complete
    }

    /// Forgets the passage blocks that a forward has begun, when it failed.
    pub(crate) fn forget_new(&mut self) {
        self.passages.retain(|passage| !passage.is_empty());
    }

    /// Whether this cache was made for a model with this configuration.
    pub(crate) fn fits(&self, config: &ModelConfig) -> bool {
        self.store.fits(config)
    }

    fn blocks(&self) -> usize {
        self.store.blocks()
    }

    fn block_bytes(&self) -> usize {
        self.store.block_bytes()
    }
}
