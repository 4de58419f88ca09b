//! Keys and values of one sequence in blocks of positions.
//!
//! A block holds every layer. For each layer and head it holds first the keys, in groups of 16
//! positions whose numbers are interleaved so that 16 scores are summed at once, and then the values of
//! one position after another.

use std::ops::Range;
use std::sync::Arc;

use super::kernels::LANES;
use super::ops::rotate;
use crate::config::ModelConfig;
use crate::error::ForwardError;
use crate::model::BLOCK;
use crate::model::decoder::KvStore;

/// The sizes that all blocks have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockShape {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl BlockShape {
    pub(super) fn new(config: &ModelConfig) -> Self {
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
    fn block_len(self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }
}

/// The blocks of one sequence.
#[derive(Debug)]
pub(super) struct KvBlocks {
    shape: BlockShape,
    /// Forks may share a block; it is copied when one of them writes to it.
    blocks: Vec<Arc<Vec<f32>>>,
}

impl KvBlocks {
    pub(super) fn new(shape: BlockShape) -> Self {
        Self {
            shape,
            blocks: Vec::new(),
        }
    }

    /// [`BlockShape::value_width`] of these blocks.
    pub(super) fn value_width(&self) -> usize {
        self.shape.value_width()
    }

    /// Allocates blocks, or frees those that are no longer needed.
    pub(super) fn set_blocks(&mut self, blocks: usize) {
        let len = self.shape.block_len();
        self.blocks.resize_with(blocks, || Arc::new(vec![0.0; len]));
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

    /// Copies one layer of `passage` into one layer of these blocks, from a position on. Its keys are
    /// rotated by `angles`, `head_dim / 2` angles a position.
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

    /// Writes one layer of a passage block, in the form of [`KvStore::layer_rows`], from a position on. Its keys are
    /// rotated by `angles`, `head_dim / 2` angles a position.
    pub(super) fn land_rows(
        &mut self,
        (layer, at): (usize, usize),
        rows: &[f32],
        angles: &[(f32, f32)],
    ) {
        let head_dim = self.shape.head_dim;
        let (keys, values) = rows.split_at(rows.len() / 2);
        let mut rows = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        let mut turned = vec![0.0; head_dim];
        for head in 0..self.shape.kv_heads {
            let positions = angles.chunks_exact(head_dim / 2).enumerate();
            for ((position, angles), (key, value)) in positions.zip(&mut rows) {
                turned.copy_from_slice(key);
                rotate(&mut turned, angles);
                self.write(layer, head, at + position, &turned, value);
            }
        }
    }

    /// Keys and values of one block of one head: `(BLOCK / 16, head_dim, 16)` and `(BLOCK, value_width)`.
    pub(super) fn head(&self, block: usize, layer: usize, head: usize) -> (&[f32], &[f32]) {
        let start = self.shape.head_len() * (layer * self.shape.kv_heads + head);
        self.blocks[block][start..start + self.shape.head_len()]
            .split_at(BLOCK * self.shape.head_dim)
    }
}

impl KvStore for KvBlocks {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_bytes(&self) -> usize {
        self.shape.block_len() * size_of::<f32>()
    }

    fn resize(&mut self, blocks: usize, _len: usize) -> Result<(), ForwardError> {
        self.set_blocks(blocks);
        Ok(())
    }

    fn clear(&mut self) {
        self.blocks.clear();
    }

    /// Whole blocks are shared until one of the two stores writes to them.
    fn fork(&self, blocks: usize, _len: usize) -> Result<Box<dyn KvStore>, ForwardError> {
        Ok(Box::new(Self {
            shape: self.shape,
            blocks: self.blocks[..blocks].to_vec(),
        }))
    }

    fn layers(&self) -> usize {
        self.shape.layers
    }

    fn layer_width(&self) -> usize {
        2 * self.shape.kv_heads * self.shape.head_dim
    }

    fn fits(&self, config: &ModelConfig) -> bool {
        self.shape == BlockShape::new(config)
    }

    fn layer_rows(&self, layer: usize, positions: Range<usize>) -> Result<Vec<f32>, ForwardError> {
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
        Ok(rows)
    }

    fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[f32],
    ) -> Result<(), ForwardError> {
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
        Ok(())
    }
}
