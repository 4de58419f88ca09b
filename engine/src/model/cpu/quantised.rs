//! Activations in 8 bits, the input of the kernels for quantised weights.

use super::crew;
use super::kernels::{BLOCK, BlockSums, LANES, LEVEL_OFFSET, Q8Row};
use super::wide::{Wide, largest_magnitude};

/// With fewer numbers than this, rows are not distributed to threads.
const WORTH_A_THREAD: usize = 1 << 15;
/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// A batch of activations in 8 bits. Its memory is reused.
#[derive(Debug, Default)]
pub(crate) struct QuantisedActivations {
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<BlockSums>,
}

impl QuantisedActivations {
    /// Quantises a batch.
    pub(super) fn fill(&mut self, xs: &[f32], columns: usize) {
        if xs.len() < WORTH_A_THREAD {
            self.fill_on_this_thread(xs);
        } else {
            self.resize(xs.len());
            let columns = ROWS * columns;
            let blocks = columns / BLOCK;
            let rows = xs.chunks(columns).zip(self.values.chunks_mut(columns));
            let rows = rows.zip(self.scales.chunks_mut(blocks));
            let mut parts: Vec<_> = rows.zip(self.sums.chunks_mut(blocks)).collect();
            crew::each_mut(&mut parts, |(((xs, values), scales), sums)| {
                quantise(xs, values, scales, sums);
            });
        }
    }

    /// Quantises a batch whose rows are whole blocks. They are quantised block by block, so several of
    /// them are one long row.
    pub(super) fn fill_on_this_thread(&mut self, xs: &[f32]) {
        self.resize(xs.len());
        quantise(xs, &mut self.values, &mut self.scales, &mut self.sums);
    }

    fn resize(&mut self, numbers: usize) {
        self.values.resize(numbers, 0);
        self.scales.resize(numbers / BLOCK, 0.0);
        self.sums.resize(numbers / BLOCK, BlockSums::default());
    }

    /// The rows.
    pub(super) fn rows(&self, columns: usize) -> impl Iterator<Item = Q8Row<'_>> {
        let scales = self.scales.chunks_exact(columns / BLOCK);
        let sums = self.sums.chunks_exact(columns / BLOCK);
        self.values
            .chunks_exact(columns)
            .zip(scales.zip(sums))
            .map(|(values, (scales, sums))| Q8Row {
                values,
                scales,
                sums,
            })
    }
}

/// Quantises a row: in each block of 32 the largest magnitude becomes 127 (Q8_0 of ggml).
pub(super) fn quantise(row: &[f32], values: &mut [i8], scales: &mut [f32], sums: &mut [BlockSums]) {
    let blocks = row.as_chunks().0.iter().zip(values.as_chunks_mut().0);
    for ((block, values), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
        (*scale, *sums) = quantise_block(block, values);
    }
}

/// Quantises a block and returns its scale and sums.
fn quantise_block(block: &[f32; BLOCK], values: &mut [i8; BLOCK]) -> (f32, BlockSums) {
    let largest = largest_magnitude(block);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0;
    let sixteens = block.as_chunks::<LANES>().0.iter();
    for (sixteen, values) in sixteens.zip(values.as_chunks_mut().0) {
        sum += Wide::load(sixteen)
            .mul(Wide::splat(inverse))
            .store_levels(values);
    }
    let scale = largest / 127.0;
    let sums = BlockSums {
        correction: -LEVEL_OFFSET * sum,
        scaled: sum as f32 * scale,
    };
    (scale, sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantising_keeps_the_largest_magnitude_and_rounds_the_rest() {
        let mut row = [0.0; BLOCK];
        (row[0], row[1], row[2]) = (-2.0, 1.0, 0.004);
        let (mut values, mut scale, mut sums) = ([0; BLOCK], [0.0], [BlockSums::default()]);
        quantise(&row, &mut values, &mut scale, &mut sums);
        assert_eq!(values[..4], [-127, 64, 0, 0]);
        assert!((scale[0] - 2.0 / 127.0).abs() < 1e-9);
        assert_eq!(sums[0].correction, -128 * (64 - 127));
        assert!((sums[0].scaled + 63.0 * 2.0 / 127.0).abs() < 1e-6);
    }
}
