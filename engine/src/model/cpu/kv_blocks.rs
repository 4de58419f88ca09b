//! Keys and values of one sequence in blocks of positions.
//!
//! A block holds every layer: for each layer and head the keys of 16 positions side by side, so that 16
//! scores are summed at once, then the values of one position after another.

use std::ops::Range;
use std::sync::Arc;

use super::kernels::LANES;
use super::ops::rotate;
use crate::config::ModelConfig;
use crate::model::kv_cache::BLOCK;

/// What all blocks have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl BlockShape {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self {
            layers: config.num_hidden_layers,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Values are kept in whole lanes.
    pub(super) fn value_width(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn head_len(self) -> usize {
        BLOCK * (self.head_dim + self.value_width())
    }

    /// Numbers in a block.
    pub(crate) fn block_len(self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }
}

/// The blocks of one sequence.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    shape: BlockShape,
    /// A block that forks share is copied when one of them writes to it.
    blocks: Vec<Arc<Vec<f32>>>,
}

impl KvBlocks {
    pub(crate) fn new(shape: BlockShape) -> Self {
        Self {
            shape,
            blocks: Vec::new(),
        }
    }

    pub(crate) fn shape(&self) -> BlockShape {
        self.shape
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Makes room, or gives room back.
    pub(crate) fn resize(&mut self, blocks: usize) {
        let len = self.shape.block_len();
        self.blocks.resize_with(blocks, || Arc::new(vec![0.0; len]));
    }

    /// Another sequence that starts with this one's first `blocks` blocks.
    pub(crate) fn fork(&self, blocks: usize) -> Self {
        Self {
            shape: self.shape,
            blocks: self.blocks[..blocks].to_vec(),
        }
    }

    /// Writes a position's key and value, `head_dim` numbers each.
    pub(super) fn write(
        &mut self,
        layer: usize,
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (shape, within) = (self.shape, position % BLOCK);
        let start = shape.head_len() * (layer * shape.kv_heads + head);
        let block = Arc::make_mut(&mut self.blocks[position / BLOCK]);
        let head = &mut block[start..start + shape.head_len()];
        let (keys, values) = head.split_at_mut(BLOCK * shape.head_dim);
        let sixteen = &mut keys[within / LANES * LANES * shape.head_dim..];
        let places = sixteen.iter_mut().skip(within % LANES).step_by(LANES);
        for (place, key) in places.zip(key) {
            *place = *key;
        }
        values[within * shape.value_width()..][..value.len()].copy_from_slice(value);
    }

    /// Writes what `passage` holds of one of its layers into one of these from a position on, its keys
    /// turned by `angles`, those of its first positions, `head_dim / 2` each.
    pub(super) fn land(
        &mut self,
        (layer, at): (usize, usize),
        (passage, from_layer): (&Self, usize),
        angles: &[(f32, f32)],
    ) {
        let head_dim = self.shape.head_dim;
        let mut key = vec![0.0; head_dim];
        for head in 0..self.shape.kv_heads {
            for (position, angles) in angles.chunks_exact(head_dim / 2).enumerate() {
                let (keys, values) = passage.head(position / BLOCK, from_layer, head);
                let within = position % BLOCK;
                let sixteen = &keys[within / LANES * LANES * head_dim..][..LANES * head_dim];
                let numbers = sixteen.iter().skip(within % LANES).step_by(LANES);
                key.iter_mut()
                    .zip(numbers)
                    .for_each(|(to, from)| *to = *from);
                rotate(&mut key, angles);
                let value = &values[within * self.shape.value_width()..][..head_dim];
                self.write(layer, head, at + position, &key, value);
            }
        }
    }

    /// Keys and values of one block of one head: `(BLOCK / 16, head_dim, 16)` and `(BLOCK, value_width)`.
    pub(super) fn head(&self, block: usize, layer: usize, head: usize) -> (&[f32], &[f32]) {
        let start = self.shape.head_len() * (layer * self.shape.kv_heads + head);
        self.blocks[block][start..start + self.shape.head_len()]
            .split_at(BLOCK * self.shape.head_dim)
    }

    /// One layer's keys, then its values, each `(kv_heads, positions, head_dim)`.
    pub(crate) fn layer_rows(&self, layer: usize, positions: Range<usize>) -> Vec<f32> {
        let BlockShape {
            kv_heads, head_dim, ..
        } = self.shape;
        let mut rows = Vec::with_capacity(2 * kv_heads * positions.len() * head_dim);
        for head in 0..kv_heads {
            for position in positions.clone() {
                let (keys, _) = self.head(position / BLOCK, layer, head);
                let within = position % BLOCK;
                let sixteen = &keys[within / LANES * LANES * head_dim..][..LANES * head_dim];
                rows.extend(sixteen.iter().skip(within % LANES).step_by(LANES));
            }
        }
        for head in 0..kv_heads {
            for position in positions.clone() {
                let (_, values) = self.head(position / BLOCK, layer, head);
                let start = position % BLOCK * self.shape.value_width();
                rows.extend_from_slice(&values[start..start + head_dim]);
            }
        }
        rows
    }

    /// Puts back what [`Self::layer_rows`] gave.
    pub(crate) fn set_layer_rows(&mut self, layer: usize, positions: Range<usize>, rows: &[f32]) {
        let head_dim = self.shape.head_dim;
        let (keys, values) = rows.split_at(rows.len() / 2);
        let mut rows = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for head in 0..self.shape.kv_heads {
            for (position, (key, value)) in positions.clone().zip(&mut rows) {
                self.write(layer, head, position, key, value);
            }
        }
    }
}
