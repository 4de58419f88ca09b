//! Activations in 8 bits, the input of the kernels for quantised weights.

use super::crew;
use super::kernels::{BLOCK, Q4Row, Q8Row, quantise, quantise_signed};

/// With fewer numbers than this, rows are not distributed to threads.
const WORTH_A_THREAD: usize = 1 << 17;
/// Rows that one thread takes at a time.
const ROWS: usize = 16;

/// A batch of activations in 8 bits. Its memory is reused.
#[derive(Debug, Default)]
pub(crate) struct QuantisedActivations {
    values: Vec<u8>,
    scales: Vec<f32>,
    /// For [`QuantisedActivations::q4_rows`] only.
    sums: Vec<f32>,
}

impl QuantisedActivations {
    /// Quantises a batch for [`QuantisedActivations::q8_rows`].
    pub(super) fn fill(&mut self, xs: &[f32], columns: usize) {
        self.fill_by(xs, columns, |x, values, scales, _| {
            quantise(x, values, scales);
        });
    }

    /// Quantises a batch for [`QuantisedActivations::q4_rows`].
    pub(super) fn fill_signed(&mut self, xs: &[f32], columns: usize) {
        self.fill_by(xs, columns, quantise_signed);
    }

    fn fill_by(
        &mut self,
        xs: &[f32],
        columns: usize,
        quantise: impl Fn(&[f32], &mut [u8], &mut [f32], &mut [f32]) + Sync,
    ) {
        let blocks = columns / BLOCK;
        self.values.resize(xs.len(), 0);
        self.scales.resize(xs.len() / BLOCK, 0.0);
        self.sums.resize(xs.len() / BLOCK, 0.0);
        if xs.len() < WORTH_A_THREAD {
            xs.chunks_exact(columns)
                .zip(self.values.chunks_exact_mut(columns))
                .zip(self.scales.chunks_exact_mut(blocks))
                .zip(self.sums.chunks_exact_mut(blocks))
                .for_each(|(((x, values), scales), sums)| quantise(x, values, scales, sums));
        } else {
            // Rows are quantised block by block, so several of them are one long row.
            let (columns, blocks) = (ROWS * columns, ROWS * blocks);
            let rows = xs.chunks(columns).zip(self.values.chunks_mut(columns));
            let rows = rows.zip(self.scales.chunks_mut(blocks));
            let mut parts: Vec<_> = rows.zip(self.sums.chunks_mut(blocks)).collect();
            crew::each_mut(&mut parts, |(((xs, values), scales), sums)| {
                quantise(xs, values, scales, sums);
            });
        }
    }

    /// The rows, for 8-bit weights.
    pub(super) fn q8_rows(&self, columns: usize) -> impl Iterator<Item = Q8Row<'_>> {
        let scales = self.scales.chunks_exact(columns / BLOCK);
        self.values
            .chunks_exact(columns)
            .zip(scales)
            .map(|(values, scales)| Q8Row { values, scales })
    }

    /// The rows, for 4-bit weights.
    pub(super) fn q4_rows(&self, columns: usize) -> impl Iterator<Item = Q4Row<'_>> {
        let scales = self.scales.chunks_exact(columns / BLOCK);
        let sums = self.sums.chunks_exact(columns / BLOCK);
        bytemuck::cast_slice(&self.values)
            .chunks_exact(columns)
            .zip(scales.zip(sums))
            .map(|(values, (scales, sums))| Q4Row {
                values,
                scales,
                sums,
            })
    }
}
