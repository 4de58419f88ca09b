//! 4-bit matrices: ggml's blocks, quantised from numbers or read from a file, and packed for the
//! kernels.
//!
//! Each block begins with a unit `d` in f16. `Q4_0` (18 bytes) and `Q4_1` (20, with a minimum in f16) hold 4
//! bits for each of 32 columns of a row. `Q4_K` (144 bytes) holds 256 columns: a second unit in f16, 6-bit
//! scales and minima of each 32 in 12 bytes, 4 bits for each column in 128.

use half::f16;

use super::kernels::{BLOCK, LANES, Q4Block, Q4KBlock, Q40Block, Q41Block};
use crate::model::ggml::{self, GgmlType};

/// Bytes of 32 columns' bits.
const QUANTS: usize = BLOCK / 2;

/// A block of a panel that takes rows in ggml's format.
pub(super) trait StoredBlock: Q4Block {
    /// ggml's name of the type.
    const ELEMENT: GgmlType;
    /// Stores a row's block, bit for bit. Each row is set only once.
    fn set(&mut self, lane: usize, stored: &[u8]);
    /// Quantises the numbers of one block.
    fn quantise(numbers: &[f32], block: &mut [u8]);
}

/// Whether rows of so many columns are whole blocks.
pub(super) fn fits<B: StoredBlock>(columns: usize) -> bool {
    columns.is_multiple_of(B::ELEMENT.block_len())
}

/// Bytes of a row of so many columns.
pub(super) fn row_bytes<B: StoredBlock>(columns: usize) -> usize {
    B::ELEMENT.bytes(columns)
}

/// Quantises a row, which must be whole blocks, and writes these to `blocks`.
pub(super) fn quantise<B: StoredBlock>(row: &[f32], blocks: &mut [u8]) {
    let each = row.chunks_exact(B::ELEMENT.block_len());
    for (block, numbers) in blocks.chunks_exact_mut(B::ELEMENT.block_bytes()).zip(each) {
        B::quantise(numbers, block);
    }
}

/// Panels of 16 rows.
#[derive(Debug)]
pub(super) struct Q4Panels<B> {
    blocks: Vec<B>,
    /// The number of blocks in a row
    blocks_each: usize,
}

impl<B: StoredBlock> Q4Panels<B> {
    /// All zeros.
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let blocks_each = columns / B::ELEMENT.block_len();
        Self {
            blocks: vec![B::zeroed(); rows.div_ceil(LANES) * blocks_each],
            blocks_each,
        }
    }

    /// The blocks of one panel.
    pub(super) fn panel(&self, at: usize) -> &[B] {
        &self.blocks[at * self.blocks_each..][..self.blocks_each]
    }

    /// Packs a row's blocks, bit for bit. Each row is set only once.
    pub(super) fn set_row(&mut self, at: usize, blocks: &[u8]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let packed = &mut self.blocks[panel * self.blocks_each..][..self.blocks_each];
        let stored = blocks.chunks_exact(B::ELEMENT.block_bytes());
        for (packed, stored) in packed.iter_mut().zip(stored) {
            packed.set(lane, stored);
        }
    }

    /// Writes a row to `row`, as numbers.
    pub(super) fn row(&self, at: usize, row: &mut [f32]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let width = B::ELEMENT.block_len();
        for (block, numbers) in self.panel(panel).iter().zip(row.chunks_mut(width)) {
            for (k, number) in numbers.iter_mut().enumerate() {
                *number = block.weight(lane, k);
            }
        }
    }
}

impl StoredBlock for Q40Block {
    const ELEMENT: GgmlType = GgmlType::Q4_0;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        self.d[lane] = unit(stored, 0);
        set_quants(self, 0, lane, |k| stored[2 + k]);
    }

    fn quantise(numbers: &[f32], block: &mut [u8]) {
        ggml::quantise_q4_0(numbers, block);
    }
}

impl StoredBlock for Q41Block {
    const ELEMENT: GgmlType = GgmlType::Q4_1;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        (self.d[lane], self.m[lane]) = (unit(stored, 0), unit(stored, 2));
        set_quants(self, 0, lane, |k| stored[4 + k]);
    }

    fn quantise(numbers: &[f32], block: &mut [u8]) {
        ggml::quantise_q4_1(numbers, block);
    }
}

impl StoredBlock for Q4KBlock {
    const ELEMENT: GgmlType = GgmlType::Q4_K;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        (self.d[lane], self.dmin[lane]) = (unit(stored, 0), unit(stored, 2));
        let Some((steps, quants)) = stored[4..].split_first_chunk() else {
            return;
        };
        for part in 0..Self::PARTS {
            (self.scales[part][lane], self.mins[part][lane]) = ggml::scale_and_min(steps, part);
            // 32 bytes hold two parts, the first one in the lower halves.
            let two = &quants[part / 2 * BLOCK..][..BLOCK];
            let bits = |k: usize| two[k] >> (part % 2 * 4) & 15;
            set_quants(self, part, lane, |k| bits(k) | bits(k + QUANTS) << 4);
        }
    }

    fn quantise(numbers: &[f32], block: &mut [u8]) {
        ggml::quantise_q4_k(numbers, block);
    }
}

fn unit(stored: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([stored[at], stored[at + 1]])
}

/// Sets the 4-bit numbers of a part of a row. `byte(k)` holds column `k` in its lower half and column `k
/// + 16` in its upper half, as the panel does.
fn set_quants(block: &mut impl Q4Block, part: usize, lane: usize, byte: impl Fn(usize) -> u8) {
    for (pair, bytes) in block.quants_mut(part).iter_mut().enumerate() {
        for (i, place) in bytes[4 * lane..][..4].iter_mut().enumerate() {
            *place = byte(4 * pair + i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// The numbers that the blocks hold.
    fn numbers<B: StoredBlock>(blocks: &[u8], columns: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; columns];
        B::ELEMENT.dequantise(blocks, &mut numbers);
        numbers
    }

    fn packed_blocks<B: StoredBlock>() {
        let mut rng = StdRng::seed_from_u64(6);
        let (rows, columns) = (21, 3 * B::ELEMENT.block_len());
        let mut packed = Q4Panels::<B>::zeros(rows, columns);
        let blocks: Vec<_> = (0..rows)
            .map(|_| ggml::random_blocks(B::ELEMENT, columns, &mut rng))
            .collect();
        for (at, blocks) in blocks.iter().enumerate() {
            packed.set_row(at, blocks);
        }
        for (at, blocks) in blocks.iter().enumerate() {
            let mut row = vec![0.0; columns];
            packed.row(at, &mut row);
            assert_eq!(row, numbers::<B>(blocks, columns), "{:?}", B::ELEMENT);
        }
    }

    #[test]
    fn packed_blocks_are_the_numbers_that_were_stored() {
        packed_blocks::<Q4KBlock>();
        packed_blocks::<Q40Block>();
        packed_blocks::<Q41Block>();
    }

    fn quantised_row<B: StoredBlock>() {
        let mut rng = StdRng::seed_from_u64(7);
        let row: Vec<f32> = (0..512).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut blocks = vec![0; row_bytes::<B>(row.len())];
        quantise::<B>(&row, &mut blocks);
        for (kept, wanted) in numbers::<B>(&blocks, row.len()).iter().zip(&row) {
            // The tolerance covers half a step of 2/15, the rounding of scale and minimum, and the end
            // of the range that `Q4_0` cuts off.
            assert!((kept - wanted).abs() < 0.13, "{kept} {wanted}");
        }
    }

    #[test]
    fn quantised_rows_are_near_what_they_were() {
        quantised_row::<Q4KBlock>();
        quantised_row::<Q40Block>();
        quantised_row::<Q41Block>();
    }
}
