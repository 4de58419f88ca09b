//! 4-bit matrices: ggml's blocks, quantised from numbers or read from a file, and packed for the
//! kernels.
//!
//! Each block begins with a unit `d` in f16. `Q4_0` (18 bytes) and `Q4_1` (20, with a minimum in f16) hold 4
//! bits for each of 32 columns of a row. `Q4_K` (144 bytes) holds 256 columns: a second unit in f16, 6-bit
//! scales and minima of each 32 in 12 bytes, 4 bits for each column in 128.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::kernels::{BLOCK, LANES, Q4Block, Q4KBlock, Q40Block, Q41Block};

/// Bytes of 32 columns' bits.
const QUANTS: usize = BLOCK / 2;

/// A block of a panel that takes rows in ggml's format.
pub(super) trait StoredBlock: Q4Block {
    /// ggml's name of the type.
    const ELEMENT: GgmlDType;
    /// Stores a row's block, bit for bit. Each row is set only once.
    fn set(&mut self, lane: usize, stored: &[u8]);
}

/// Whether rows of so many columns are whole blocks.
pub(super) fn fits<B: StoredBlock>(columns: usize) -> bool {
    columns.is_multiple_of(B::ELEMENT.block_size())
}

/// Bytes of a row of so many columns.
pub(super) fn row_bytes<B: StoredBlock>(columns: usize) -> usize {
    columns / B::ELEMENT.block_size() * B::ELEMENT.type_size()
}

/// Quantises a row with candle and writes its blocks to `blocks`.
///
/// # Errors
/// The row is not whole blocks.
pub(super) fn quantise<B: StoredBlock>(row: &[f32], blocks: &mut [u8]) -> candle_core::Result<()> {
    let row = Tensor::new(row, &Device::Cpu)?;
    blocks.copy_from_slice(&QTensor::quantize(&row, B::ELEMENT)?.data()?);
    Ok(())
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
        let blocks_each = columns / B::ELEMENT.block_size();
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
        let stored = blocks.chunks_exact(B::ELEMENT.type_size());
        for (packed, stored) in packed.iter_mut().zip(stored) {
            packed.set(lane, stored);
        }
    }

    /// Writes a row to `row`, as numbers.
    pub(super) fn row(&self, at: usize, row: &mut [f32]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let width = B::ELEMENT.block_size();
        for (block, numbers) in self.panel(panel).iter().zip(row.chunks_mut(width)) {
            for (k, number) in numbers.iter_mut().enumerate() {
                *number = block.weight(lane, k);
            }
        }
    }
}

impl StoredBlock for Q40Block {
    const ELEMENT: GgmlDType = GgmlDType::Q4_0;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        self.d[lane] = unit(stored, 0);
        set_quants(self, 0, lane, |k| stored[2 + k]);
    }
}

impl StoredBlock for Q41Block {
    const ELEMENT: GgmlDType = GgmlDType::Q4_1;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        (self.d[lane], self.m[lane]) = (unit(stored, 0), unit(stored, 2));
        set_quants(self, 0, lane, |k| stored[4 + k]);
    }
}

impl StoredBlock for Q4KBlock {
    const ELEMENT: GgmlDType = GgmlDType::Q4K;

    fn set(&mut self, lane: usize, stored: &[u8]) {
        (self.d[lane], self.dmin[lane]) = (unit(stored, 0), unit(stored, 2));
        let (steps, quants) = stored[4..].split_at(12);
        for part in 0..Self::PARTS {
            (self.scales[part][lane], self.mins[part][lane]) = scale_and_min(steps, part);
            // 32 bytes hold two parts, the first one in the lower halves.
            let two = &quants[part / 2 * BLOCK..][..BLOCK];
            let bits = |k: usize| two[k] >> (part % 2 * 4) & 15;
            set_quants(self, part, lane, |k| bits(k) | bits(k + QUANTS) << 4);
        }
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

/// Scale and minimum of part `j` of a `Q4_K` block. Those of the first four parts are the lower 6 bits
/// of a byte each. For the other parts, the lower 4 bits of scale and minimum share a byte, and their
/// upper 2 bits are the two unused bits in the bytes of the first four.
fn scale_and_min(steps: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (steps[j] & 63, steps[j + 4] & 63)
    } else {
        (
            steps[j + 4] & 15 | steps[j - 4] >> 6 << 4,
            steps[j + 4] >> 4 | steps[j] >> 6 << 4,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::QStorage;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// The numbers that candle reads from the blocks.
    fn numbers<B: StoredBlock>(blocks: &[u8]) -> Vec<f32> {
        let columns = blocks.len() / B::ELEMENT.type_size() * B::ELEMENT.block_size();
        let storage = QStorage::from_data(blocks.into(), &Device::Cpu, B::ELEMENT).unwrap();
        let tensor = QTensor::new(storage, columns).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
    }

    fn random_blocks<B: StoredBlock>(rng: &mut StdRng, columns: usize) -> Vec<u8> {
        let mut blocks = vec![0; row_bytes::<B>(columns)];
        rng.fill(&mut blocks[..]);
        for block in blocks.chunks_exact_mut(B::ELEMENT.type_size()) {
            // The units, and the other f16 numbers after them.
            for unit in block[..4].as_chunks_mut::<2>().0 {
                *unit = f16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes();
            }
        }
        blocks
    }

    fn packed_blocks<B: StoredBlock>() {
        let mut rng = StdRng::seed_from_u64(6);
        let (rows, columns) = (21, 3 * B::ELEMENT.block_size());
        let mut packed = Q4Panels::<B>::zeros(rows, columns);
        let blocks: Vec<_> = (0..rows)
            .map(|_| random_blocks::<B>(&mut rng, columns))
            .collect();
        for (at, blocks) in blocks.iter().enumerate() {
            packed.set_row(at, blocks);
        }
        for (at, blocks) in blocks.iter().enumerate() {
            let mut row = vec![0.0; columns];
            packed.row(at, &mut row);
            assert_eq!(row, numbers::<B>(blocks), "{:?}", B::ELEMENT);
        }
    }

    #[test]
    fn packed_blocks_are_the_numbers_that_candle_reads_in_them() {
        packed_blocks::<Q4KBlock>();
        packed_blocks::<Q40Block>();
        packed_blocks::<Q41Block>();
    }

    fn quantised_row<B: StoredBlock>() {
        let mut rng = StdRng::seed_from_u64(7);
        let row: Vec<f32> = (0..512).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut blocks = vec![0; row_bytes::<B>(row.len())];
        quantise::<B>(&row, &mut blocks).unwrap();
        for (kept, wanted) in numbers::<B>(&blocks).iter().zip(&row) {
            // The tolerance covers half a step of 2/15, the rounding of scale and minimum, and the end
            // of the range that `Q4_0` cuts off.
            assert!((kept - wanted).abs() < 0.13, "{kept} {wanted}");
        }
        assert!(quantise::<B>(&row[1..], &mut blocks).is_err());
    }

    #[test]
    fn quantised_rows_are_near_what_they_were() {
        quantised_row::<Q4KBlock>();
        quantised_row::<Q40Block>();
        quantised_row::<Q41Block>();
    }
}
