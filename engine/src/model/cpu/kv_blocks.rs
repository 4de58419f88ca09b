//! Keys and values of one sequence in blocks of positions. A block holds every layer, and of each layer every
//! head.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::kv_head::{Head, HeadMut, HeadShape, Which, read_bytes};
use super::ops::rotate;
use crate::config::ModelConfig;
use crate::error::ForwardError;
use crate::model::decoder::KvStore;
use crate::model::{BLOCK, KvType};

/// The sizes that all blocks have in common, and the type of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockShape {
    pub(super) layers: usize,
    pub(super) kv_heads: usize,
    pub(super) head: HeadShape,
    pub(super) kv_type: KvType,
}

impl BlockShape {
    pub(super) fn new(config: &ModelConfig, kv_type: KvType) -> Self {
        Self {
            layers: config.num_hidden_layers,
            kv_heads: config.num_key_value_heads,
            head: HeadShape {
                head_dim: config.head_dim,
            },
            kv_type,
        }
    }

    /// Scales of one head in a block.
    fn head_scales(self) -> usize {
        match self.kv_type {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => self.head.scales(),
        }
    }

    fn number_bytes(self) -> usize {
        match self.kv_type {
            KvType::F32 => size_of::<f32>(),
            KvType::F16 => size_of::<f16>(),
            KvType::Q8_0 => size_of::<i8>(),
        }
    }

    fn block_bytes(self) -> usize {
        let numbers = self.head.numbers() * self.number_bytes();
        let head = numbers + self.head_scales() * size_of::<bf16>();
        self.layers * self.kv_heads * head
    }

    /// Bytes of a key or a value as [`Head::append_bytes`] gives it.
    fn row_bytes(self) -> usize {
        // A block's scales are those of a key and a value for each position.
        let scales = self.head_scales() / (2 * BLOCK);
        self.head.head_dim * self.number_bytes() + scales * size_of::<bf16>()
    }

    /// A block of zeros.
    fn zeros(self) -> Block {
        let heads = self.layers * self.kv_heads;
        let numbers = heads * self.head.numbers();
        Block {
            numbers: match self.kv_type {
                KvType::F32 => Numbers::F32(vec![0.0; numbers]),
                KvType::F16 => Numbers::F16(vec![f16::ZERO; numbers]),
                KvType::Q8_0 => Numbers::Q8(vec![0; numbers]),
            },
            scales: vec![bf16::ZERO; heads * self.head_scales()],
        }
    }
}

/// [`BLOCK`] positions, head after head.
#[derive(Debug, Clone)]
struct Block {
    numbers: Numbers,
    scales: Vec<bf16>,
}

#[derive(Debug, Clone)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8(Vec<i8>),
}

/// One head of a block, of any type.
#[derive(Debug, Clone, Copy)]
pub(super) enum AnyHead<'a> {
    F32(Head<'a, f32>),
    F16(Head<'a, f16>),
    Q8(Head<'a, i8>),
}

/// Does the same with a head of any type.
macro_rules! with_head {
    ($of:ident, $any:expr, $head:pat => $do:expr) => {
        match $any {
            $of::F32($head) => $do,
            $of::F16($head) => $do,
            $of::Q8($head) => $do,
        }
    };
}
pub(super) use with_head;

enum AnyHeadMut<'a> {
    F32(HeadMut<'a, f32>),
    F16(HeadMut<'a, f16>),
    Q8(HeadMut<'a, i8>),
}

/// The blocks of one sequence.
#[derive(Debug)]
pub(super) struct KvBlocks {
    shape: BlockShape,
    /// Forks may share a block; it is copied when one of them writes to it.
    blocks: Vec<Arc<Block>>,
}

impl KvBlocks {
    pub(super) fn new(shape: BlockShape) -> Self {
        Self {
            shape,
            blocks: Vec::new(),
        }
    }

    /// The shape of each head.
    pub(super) fn head_shape(&self) -> HeadShape {
        self.shape.head
    }

    /// Allocates blocks, or frees those that are no longer needed.
    pub(super) fn set_blocks(&mut self, blocks: usize) {
        let shape = self.shape;
        self.blocks.resize_with(blocks, || Arc::new(shape.zeros()));
    }

    /// Where a head's numbers and scales are within a block.
    fn parts(&self, layer: usize, head: usize) -> (Range<usize>, Range<usize>) {
        let at = layer * self.shape.kv_heads + head;
        let part = |len: usize| at * len..(at + 1) * len;
        (
            part(self.shape.head.numbers()),
            part(self.shape.head_scales()),
        )
    }

    /// One head of one block.
    pub(super) fn head(&self, block: usize, layer: usize, head: usize) -> AnyHead<'_> {
        let (numbers, scales) = self.parts(layer, head);
        let (shape, block) = (self.shape.head, &*self.blocks[block]);
        let scales = &block.scales[scales];
        macro_rules! head {
            ($all:expr) => {
                Head {
                    shape,
                    numbers: &$all[numbers],
                    scales,
                }
            };
        }
        match &block.numbers {
            Numbers::F32(all) => AnyHead::F32(head!(all)),
            Numbers::F16(all) => AnyHead::F16(head!(all)),
            Numbers::Q8(all) => AnyHead::Q8(head!(all)),
        }
    }

    fn head_mut(&mut self, block: usize, layer: usize, head: usize) -> AnyHeadMut<'_> {
        let (numbers, scales) = self.parts(layer, head);
        let (shape, block) = (self.shape.head, Arc::make_mut(&mut self.blocks[block]));
        let scales = &mut block.scales[scales];
        macro_rules! head {
            ($all:expr) => {
                HeadMut {
                    shape,
                    numbers: &mut $all[numbers],
                    scales,
                }
            };
        }
        match &mut block.numbers {
            Numbers::F32(all) => AnyHeadMut::F32(head!(all)),
            Numbers::F16(all) => AnyHeadMut::F16(head!(all)),
            Numbers::Q8(all) => AnyHeadMut::Q8(head!(all)),
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
        let within = position % BLOCK;
        with_head!(AnyHeadMut, self.head_mut(position / BLOCK, layer, head), mut head => {
            head.write(Which::Key, within, key);
            head.write(Which::Value, within, value);
        });
    }

    /// Copies one layer of `passage` into one layer of these blocks, from a position on. Its keys are
    /// rotated by `angles`, `head_dim / 2` angles a position.
    pub(super) fn land(
        &mut self,
        (layer, at): (usize, usize),
        (passage, from_layer): (&Self, usize),
        angles: &[(f32, f32)],
    ) {
        let head_dim = self.shape.head.head_dim;
        let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
        for head in 0..self.shape.kv_heads {
            for (position, angles) in angles.chunks_exact(head_dim / 2).enumerate() {
                let (to, within) = (at + position, position % BLOCK);
                let from = passage.head(position / BLOCK, from_layer, head);
                with_head!(AnyHead, from, from => from.read(Which::Key, within, &mut key));
                rotate(&mut key, angles);
                match (from, self.head_mut(to / BLOCK, layer, head)) {
                    // Values in 8 bits are copied, so that they are narrowed once only. The other types give the
                    // same bits again.
                    (AnyHead::Q8(from), AnyHeadMut::Q8(mut into)) => {
                        into.write(Which::Key, to % BLOCK, &key);
                        into.copy(Which::Value, to % BLOCK, (from, within));
                    }
                    (from, into) => {
                        with_head!(AnyHead, from, from => {
                            from.read(Which::Value, within, &mut value);
                        });
                        with_head!(AnyHeadMut, into, mut into => {
                            into.write(Which::Key, to % BLOCK, &key);
                            into.write(Which::Value, to % BLOCK, &value);
                        });
                    }
                }
            }
        }
    }

    /// Writes one layer of a passage block, in the form of [`KvStore::layer_rows`], from a position on. Its keys are
    /// rotated by `angles`, `head_dim / 2` angles a position.
    pub(super) fn land_rows(
        &mut self,
        (layer, at): (usize, usize),
        rows: &[u8],
        angles: &[(f32, f32)],
    ) {
        let read = match self.shape.kv_type {
            KvType::F32 => read_bytes::<f32>,
            KvType::F16 => read_bytes::<f16>,
            KvType::Q8_0 => read_bytes::<i8>,
        };
        let head_dim = self.shape.head.head_dim;
        let mut key = vec![0.0; head_dim];
        let mut rows = self.shape.rows(rows);
        for head in 0..self.shape.kv_heads {
            let positions = angles.chunks_exact(head_dim / 2).enumerate();
            for ((position, angles), (key_row, value_row)) in positions.zip(&mut rows) {
                read(key_row, &mut key);
                rotate(&mut key, angles);
                let to = at + position;
                with_head!(AnyHeadMut, self.head_mut(to / BLOCK, layer, head), mut head => {
                    head.write(Which::Key, to % BLOCK, &key);
                    head.write_bytes(Which::Value, to % BLOCK, value_row);
                });
            }
        }
    }
}

impl BlockShape {
    /// Each key of [`KvStore::layer_rows`] with its value.
    fn rows(self, rows: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (keys, values) = rows.split_at(rows.len() / 2);
        let row = self.row_bytes();
        keys.chunks_exact(row).zip(values.chunks_exact(row))
    }
}

impl KvStore for KvBlocks {
    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_bytes(&self) -> usize {
        self.shape.block_bytes()
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

    fn layer_bytes(&self) -> usize {
        self.layer_row_count() * self.shape.row_bytes()
    }

    fn layer_row_count(&self) -> usize {
        2 * self.shape.kv_heads
    }

    fn fits(&self, config: &ModelConfig) -> bool {
        self.shape == BlockShape::new(config, self.shape.kv_type)
    }

    fn layer_rows(&self, layer: usize, positions: Range<usize>) -> Result<Vec<u8>, ForwardError> {
        let mut rows = Vec::with_capacity(self.layer_bytes() * positions.len());
        for which in [Which::Key, Which::Value] {
            for head in 0..self.shape.kv_heads {
                for position in positions.clone() {
                    let block = self.head(position / BLOCK, layer, head);
                    with_head!(AnyHead, block, head => {
                        head.append_bytes(which, position % BLOCK, &mut rows);
                    });
                }
            }
        }
        Ok(rows)
    }

    fn set_layer_rows(
        &mut self,
        layer: usize,
        positions: Range<usize>,
        rows: &[u8],
    ) -> Result<(), ForwardError> {
        let mut rows = self.shape.rows(rows);
        for head in 0..self.shape.kv_heads {
            for (position, (key, value)) in positions.clone().zip(&mut rows) {
                let block = self.head_mut(position / BLOCK, layer, head);
                with_head!(AnyHeadMut, block, mut head => {
                    head.write_bytes(Which::Key, position % BLOCK, key);
                    head.write_bytes(Which::Value, position % BLOCK, value);
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// More than a block of positions.
    const POSITIONS: usize = BLOCK + 9;

    fn filled(shape: BlockShape, seed: u64) -> KvBlocks {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut row = || -> Vec<f32> {
            let size = rng.random_range(0.01..30.0);
            let numbers = (0..shape.head.head_dim).map(|_| size * (rng.random::<f32>() - 0.4));
            numbers.collect()
        };
        let mut blocks = KvBlocks::new(shape);
        blocks.set_blocks(POSITIONS.div_ceil(BLOCK));
        for layer in 0..shape.layers {
            for head in 0..shape.kv_heads {
                for position in 0..POSITIONS {
                    blocks.write(layer, head, position, &row(), &row());
                }
            }
        }
        blocks
    }

    /// All types, with heads that are and are not whole numbers of lanes and of scales.
    fn shapes() -> impl Iterator<Item = BlockShape> {
        let shape = |head_dim, kv_type| BlockShape {
            layers: 2,
            kv_heads: 2,
            head: HeadShape { head_dim },
            kv_type,
        };
        [6, 16, 40, 64]
            .into_iter()
            .flat_map(move |head_dim| KvType::ALL.map(|kv_type| shape(head_dim, kv_type)))
    }

    fn rows(blocks: &KvBlocks) -> Vec<Vec<u8>> {
        let layers = 0..blocks.layers();
        layers
            .map(|layer| blocks.layer_rows(layer, 0..POSITIONS).unwrap())
            .collect()
    }

    #[test]
    fn what_comes_back_has_the_bits_that_went_out() {
        for shape in shapes() {
            let blocks = filled(shape, 1);
            let out = rows(&blocks);
            assert!(
                out.iter()
                    .all(|rows| rows.len() == POSITIONS * blocks.layer_bytes())
            );
            let mut back = filled(shape, 2);
            for (layer, rows) in out.iter().enumerate() {
                back.set_layer_rows(layer, 0..POSITIONS, rows).unwrap();
            }
            assert_eq!(rows(&back), out, "{shape:?}");
        }
    }

    #[test]
    fn a_passage_lands_with_the_same_bits_from_its_blocks_and_from_its_rows() {
        for shape in shapes() {
            let passage = filled(shape, 3);
            let angles: Vec<_> = (0..POSITIONS * shape.head.head_dim / 2)
                .map(|at| (at as f32 * 0.1).sin_cos())
                .collect();
            // It lands across the end of a block.
            let at = BLOCK - 3;
            let mut landed = [filled(shape, 4), filled(shape, 4)];
            for blocks in &mut landed {
                blocks.set_blocks((at + POSITIONS).div_ceil(BLOCK));
            }
            let [from_blocks, from_rows] = &mut landed;
            for (layer, rows) in rows(&passage).iter().enumerate() {
                from_blocks.land((layer, at), (&passage, layer), &angles);
                from_rows.land_rows((layer, at), rows, &angles);
            }
            let all = |blocks: &KvBlocks| {
                let layers = (0..2).map(|layer| blocks.layer_rows(layer, 0..at + POSITIONS));
                layers.collect::<Result<Vec<_>, _>>().unwrap()
            };
            assert_eq!(all(from_blocks), all(from_rows), "{shape:?}");
        }
    }
}
