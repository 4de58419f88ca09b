//! The KV-cache of one sequence: keys and values of every layer for the positions forwarded.

use std::ops::Range;

use candle_core::{DType, Device};

use super::candle::KvTensors;
use super::cpu::{BlockShape, KvBlocks};
use crate::config::ModelConfig;

/// Positions are allocated in blocks of this many.
pub(crate) const BLOCK: usize = 128;

/// Keys and values of one sequence. Rebuildable from the token log by forwarding it again.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) store: Store,
    len: usize,
}

/// Where they are kept: with whoever forwards.
#[derive(Debug)]
pub(crate) enum Store {
    Cpu(KvBlocks),
    Candle(KvTensors),
}

impl KvCache {
    pub(crate) fn on_cpu(config: &ModelConfig) -> Self {
        Self {
            store: Store::Cpu(KvBlocks::new(BlockShape::of(config))),
            len: 0,
        }
    }

    pub(crate) fn in_tensors(config: &ModelConfig, dtype: DType, device: &Device) -> Self {
        Self {
            store: Store::Candle(KvTensors::new(config, dtype, device)),
            len: 0,
        }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.block_bytes() * self.blocks()
    }

    /// Bytes allocated once `positions` are held, rounded up to whole blocks.
    pub fn bytes_for(&self, positions: usize) -> usize {
        self.block_bytes() * positions.div_ceil(BLOCK)
    }

    /// How many positions `bytes` are enough for, in whole blocks.
    pub(crate) fn positions_in(&self, bytes: usize) -> usize {
        bytes / self.block_bytes() * BLOCK
    }

    /// Forgets all positions from `len` on; their memory stays for what comes instead.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets all positions and gives the memory back.
    pub fn clear(&mut self) {
        match &mut self.store {
            Store::Cpu(blocks) => blocks.resize(0),
            Store::Candle(tensors) => tensors.clear(),
        }
        self.len = 0;
    }

    /// Makes room for `positions` in all.
    pub(crate) fn reserve(&mut self, positions: usize) -> candle_core::Result<()> {
        let blocks = positions.div_ceil(BLOCK);
        if blocks <= self.blocks() {
            return Ok(());
        }
        match &mut self.store {
            Store::Cpu(held) => held.resize(blocks),
            Store::Candle(tensors) => tensors.grow(blocks, self.len)?,
        }
        Ok(())
    }

    /// Another sequence's cache that holds this one's first `len` positions. On the CPU whole blocks
    /// are shared until one of both writes to them; each counts them as its own.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn fork(&self, len: usize) -> candle_core::Result<Self> {
        let len = len.min(self.len);
        let blocks = len.div_ceil(BLOCK);
        let store = match &self.store {
            Store::Cpu(held) => Store::Cpu(held.fork(blocks)),
            Store::Candle(tensors) => Store::Candle(tensors.fork(blocks, len)?),
        };
        Ok(Self { store, len })
    }

    /// Layers whose keys and values are held.
    pub(crate) fn layers(&self) -> usize {
        match &self.store {
            Store::Cpu(blocks) => blocks.shape().layers,
            Store::Candle(tensors) => tensors.layers(),
        }
    }

    /// Numbers of one position in one layer: a key and a value for each head.
    pub(crate) fn layer_width(&self) -> usize {
        match &self.store {
            Store::Cpu(blocks) => 2 * blocks.shape().kv_heads * blocks.shape().head_dim,
            Store::Candle(tensors) => tensors.layer_width(),
        }
    }

    /// Bytes of one position outside of the cache, where every number is an f32.
    pub(crate) fn file_bytes_per_position(&self) -> u64 {
        (self.layers() * self.layer_width() * size_of::<f32>()) as u64
    }

    /// One layer's keys, then its values, each `(kv_heads, positions, head_dim)`.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn layer_rows(
        &self,
        layer: usize,
        positions: Range<usize>,
    ) -> candle_core::Result<Vec<f32>> {
        match &self.store {
            Store::Cpu(blocks) => Ok(blocks.layer_rows(layer, positions)),
            Store::Candle(tensors) => tensors.layer_rows(layer, positions),
        }
    }

    /// Puts back what [`Self::layer_rows`] gave, where there is room already. The positions are held
    /// once all layers are there and [`Self::grow`] has counted them.
    ///
    /// # Errors
    /// The tensor library failed.
    pub(crate) fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[f32],
    ) -> candle_core::Result<()> {
        match &mut self.store {
            Store::Cpu(blocks) => {
                blocks.set_layer_rows(layer, positions, rows);
                Ok(())
            }
            Store::Candle(tensors) => tensors.set_layer_rows(layer, positions, rows),
        }
    }

    /// Counts `new` more positions as held, once every layer has written them.
    pub(crate) fn grow(&mut self, new: usize) {
        self.len += new;
    }

    /// Whether this cache was made for such a model.
    pub(crate) fn fits(&self, config: &ModelConfig) -> bool {
        match &self.store {
            Store::Cpu(blocks) => blocks.shape() == BlockShape::of(config),
            Store::Candle(tensors) => tensors.fits(config),
        }
    }

    fn blocks(&self) -> usize {
        match &self.store {
            Store::Cpu(blocks) => blocks.len(),
            Store::Candle(tensors) => tensors.len(),
        }
    }

    fn block_bytes(&self) -> usize {
        match &self.store {
            Store::Cpu(blocks) => blocks.shape().block_len() * size_of::<f32>(),
            Store::Candle(tensors) => tensors.block_bytes(),
        }
    }
}
