//! 4-bit matrices: ggml's `Q4_K` blocks, made of numbers or read from a file, packed for the kernels.
//!
//! A block is 144 bytes for 256 columns of a row: `d` and `dmin` in f16, a 6-bit scale and minimum for
//! each 32 columns in 12 bytes, 4 bits for each column in 128.

use bytemuck::Zeroable;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::kernels::{LANES, Q4Block, SUB_BLOCKS, SUPER_BLOCK};

/// Bytes of a block.
const BLOCK_BYTES: usize = 144;

/// Whether rows of so many columns are whole blocks.
pub(super) fn fits(columns: usize) -> bool {
    columns.is_multiple_of(SUPER_BLOCK)
}

/// Bytes of a row of so many columns.
pub(super) fn row_bytes(columns: usize) -> usize {
    columns / SUPER_BLOCK * BLOCK_BYTES
}

/// Writes a row's blocks to `blocks`, as candle quantises it.
///
/// # Errors
/// The row is not whole blocks.
pub(super) fn quantise(row: &[f32], blocks: &mut [u8]) -> candle_core::Result<()> {
    let row = Tensor::new(row, &Device::Cpu)?;
    blocks.copy_from_slice(&QTensor::quantize(&row, GgmlDType::Q4K)?.data()?);
    Ok(())
}

/// Panels of 16 rows.
#[derive(Debug)]
pub(super) struct Q4Panels {
    blocks: Vec<Q4Block>,
    /// Of a row
    blocks_each: usize,
}

impl Q4Panels {
    /// All zeros.
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let blocks_each = columns / SUPER_BLOCK;
        Self {
            blocks: vec![Q4Block::zeroed(); rows.div_ceil(LANES) * blocks_each],
            blocks_each,
        }
    }

    /// The blocks of one panel.
    pub(super) fn panel(&self, at: usize) -> &[Q4Block] {
        &self.blocks[at * self.blocks_each..][..self.blocks_each]
    }

    /// Packs a row's blocks as they are, bit for bit. A row is set once.
    pub(super) fn set_row(&mut self, at: usize, blocks: &[u8]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let packed = &mut self.blocks[panel * self.blocks_each..][..self.blocks_each];
        for (packed, block) in packed.iter_mut().zip(blocks.chunks_exact(BLOCK_BYTES)) {
            let (units, rest) = block.split_at(4);
            let (steps, quants) = rest.split_at(12);
            packed.d[lane] = f16::from_le_bytes([units[0], units[1]]);
            packed.dmin[lane] = f16::from_le_bytes([units[2], units[3]]);
            for j in 0..SUB_BLOCKS {
                (packed.scales[j][lane], packed.mins[j][lane]) = scale_and_min(steps, j);
            }
            // 32 bytes hold two sub-blocks, the first one in the lower halves.
            for k in 0..SUPER_BLOCK {
                let byte = quants[k / 64 * 32 + k % 32];
                packed.set_quant(lane, k, byte >> (k / 32 % 2 * 4) & 15);
            }
        }
    }

    /// Writes a row to `row`, as numbers.
    pub(super) fn row(&self, at: usize, row: &mut [f32]) {
        let (panel, lane) = (at / LANES, at % LANES);
        for (block, numbers) in self.panel(panel).iter().zip(row.chunks_mut(SUPER_BLOCK)) {
            for (k, number) in numbers.iter_mut().enumerate() {
                *number = block.weight(lane, k);
            }
        }
    }
}

/// Of sub-block `j`. The first four's stand in the lower 6 bits of a byte each; the others' lower 4 bits
/// share a byte, and their upper 2 bits are those left over in the first four's.
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

    /// What candle makes of the blocks.
    fn numbers(blocks: &[u8]) -> Vec<f32> {
        let columns = blocks.len() / BLOCK_BYTES * SUPER_BLOCK;
        let storage = QStorage::from_data(blocks.into(), &Device::Cpu, GgmlDType::Q4K).unwrap();
        let tensor = QTensor::new(storage, columns).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
    }

    fn random_blocks(rng: &mut StdRng, columns: usize) -> Vec<u8> {
        let mut blocks = vec![0; row_bytes(columns)];
        rng.fill(&mut blocks[..]);
        for block in blocks.chunks_exact_mut(BLOCK_BYTES) {
            for unit in block[..4].as_chunks_mut::<2>().0 {
                *unit = f16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes();
            }
        }
        blocks
    }

    #[test]
    fn packed_blocks_are_the_numbers_that_candle_reads_in_them() {
        let mut rng = StdRng::seed_from_u64(6);
        let (rows, columns) = (21, 3 * SUPER_BLOCK);
        let mut packed = Q4Panels::zeros(rows, columns);
        let blocks: Vec<_> = (0..rows)
            .map(|_| random_blocks(&mut rng, columns))
            .collect();
        for (at, blocks) in blocks.iter().enumerate() {
            packed.set_row(at, blocks);
        }
        for (at, blocks) in blocks.iter().enumerate() {
            let mut row = vec![0.0; columns];
            packed.row(at, &mut row);
            assert_eq!(row, numbers(blocks));
        }
    }

    #[test]
    fn quantised_rows_are_near_what_they_were() {
        let mut rng = StdRng::seed_from_u64(7);
        let row: Vec<f32> = (0..2 * SUPER_BLOCK)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let mut blocks = vec![0; row_bytes(row.len())];
        quantise(&row, &mut blocks).unwrap();
        for (kept, wanted) in numbers(&blocks).iter().zip(&row) {
            // Half a step of 2/15, and what 6 bits leave of scale and minimum.
            assert!((kept - wanted).abs() < 0.12, "{kept} {wanted}");
        }
        assert!(quantise(&row[1..], &mut blocks).is_err());
    }
}
