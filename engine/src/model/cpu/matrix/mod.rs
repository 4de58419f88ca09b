//! A matrix packed for the kernels, and its product with a batch of activations.

mod pack;

use std::ops::Range;

use super::aligned::AlignedVec;
use super::crew;
use super::disjoint::DisjointParts;
use super::kernels::{
    BLOCK, Isa, LANES, LEVEL_OFFSET, Lanes, MOST_ROWS, Q4KBlock, Q8Panel, Q40Block, Q41Block,
    Weight, float_products, q4_products, q8_products,
};
use super::q4::{Q4Panels, StoredBlock};
use super::quantised::QuantisedActivations;
use super::wide::Wide;
use half::{bf16, f16};

/// With fewer multiplications than this a second thread costs more than it gains, if there are fewer
/// weights than [`FROM_MEMORY`].
const WORTH_A_THREAD: usize = 1 << 20;
/// With more weights than this, they rarely stay in a core's cache from one step to the next, and two
/// threads read them faster.
const FROM_MEMORY: usize = 1 << 19;
/// Bytes of panels that fit into the second-level cache while all rows of a batch are multiplied
/// with them.
const CACHED_BYTES: usize = 128 << 10;
/// Pieces of work for each thread. With several small pieces, a thread that is delayed does not
/// delay the others.
const PIECES: usize = 4;

/// A matrix `(rows, columns)` in panels of 16 rows. The last panel is padded with zeros.
#[derive(Debug)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    weights: PackedWeights,
    bias: Option<Vec<f32>>,
}

/// The weights, by type.
#[derive(Debug)]
pub(super) enum PackedWeights {
    F32(AlignedVec<f32>),
    F16(AlignedVec<f16>),
    Bf16(AlignedVec<bf16>),
    Q8 {
        weights: AlignedVec<u8>,
        scales: AlignedVec<f16>,
    },
    Q40(Q4Panels<Q40Block>),
    Q41(Q4Panels<Q41Block>),
    Q4K(Q4Panels<Q4KBlock>),
}

impl From<Q4Panels<Q40Block>> for PackedWeights {
    fn from(panels: Q4Panels<Q40Block>) -> Self {
        Self::Q40(panels)
    }
}

impl From<Q4Panels<Q41Block>> for PackedWeights {
    fn from(panels: Q4Panels<Q41Block>) -> Self {
        Self::Q41(panels)
    }
}

impl From<Q4Panels<Q4KBlock>> for PackedWeights {
    fn from(panels: Q4Panels<Q4KBlock>) -> Self {
        Self::Q4K(panels)
    }
}

impl Matrix {
    /// The same matrix with a bias, which is added to each product.
    pub(crate) fn with_bias(mut self, bias: Vec<f32>) -> Self {
        assert_eq!(bias.len(), self.rows);
        self.bias = Some(bias);
        self
    }

    /// Numbers in a product.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Writes row `at` to `row`, as numbers. A tied embedding is looked up in the head in this way.
    pub(crate) fn row(&self, at: usize, row: &mut [f32]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let start = panel * self.columns * LANES;
        match &self.weights {
            PackedWeights::F32(weights) => strided(&weights[start..], lane, row),
            PackedWeights::F16(weights) => strided(&weights[start..], lane, row),
            PackedWeights::Bf16(weights) => strided(&weights[start..], lane, row),
            PackedWeights::Q8 { weights, scales } => {
                for (k, value) in row.iter_mut().enumerate() {
                    let level = i32::from(weights[start + q8_place(k, lane)]) - LEVEL_OFFSET;
                    let scale = scales[(start / BLOCK) + k / BLOCK * LANES + lane];
                    *value = level as f32 * scale.to_f32();
                }
            }
            PackedWeights::Q40(panels) => panels.row(at, row),
            PackedWeights::Q41(panels) => panels.row(at, row),
            PackedWeights::Q4K(panels) => panels.row(at, row),
        }
    }

    /// `xs` is `(batch, columns)`, `out` is `(batch, rows)`: `out = xs * self^T + bias`.
    ///
    /// **Invariant:** a row of `out` has the same bits whatever the other rows of `xs` are.
    pub(crate) fn product(&self, xs: &[f32], out: &mut [f32], scratch: &mut QuantisedActivations) {
        let batch = xs.len() / self.columns;
        debug_assert_eq!(xs.len(), batch * self.columns);
        debug_assert_eq!(out.len(), batch * self.rows);
        if self.takes_8_bits() {
            scratch.fill(xs, self.columns);
        }
        let (scratch, out) = (&*scratch, DisjointParts::new(out));
        let panels = self.rows.div_ceil(LANES);
        let threads = rayon::current_num_threads();
        let weights = self.rows * self.columns;
        let small = weights < FROM_MEMORY && batch * weights < WORTH_A_THREAD;
        if threads == 1 || small {
            return self.some_panels(0..panels, xs, scratch, &out);
        }
        let piece = panels.div_ceil(threads * PIECES);
        crew::each(panels.div_ceil(piece), |at| {
            let range = at * piece..((at + 1) * piece).min(panels);
            self.some_panels(range, xs, scratch, &out);
        });
    }

    /// [`Self::product`] without other threads.
    pub(super) fn product_on_this_thread(
        &self,
        xs: &[f32],
        out: &mut [f32],
        scratch: &mut QuantisedActivations,
    ) {
        assert_eq!(
            xs.len() * self.rows,
            out.len() * self.columns,
            "the output has another size"
        );
        if self.takes_8_bits() {
            scratch.fill_on_this_thread(xs);
        }
        let panels = 0..self.rows.div_ceil(LANES);
        self.some_panels(panels, xs, scratch, &DisjointParts::new(out));
    }

    /// Whether activations are rounded to 8 bits before they are multiplied.
    fn takes_8_bits(&self) -> bool {
        match self.weights {
            PackedWeights::Q8 { .. }
            | PackedWeights::Q40(_)
            | PackedWeights::Q41(_)
            | PackedWeights::Q4K(_) => true,
            PackedWeights::F32(_) | PackedWeights::F16(_) | PackedWeights::Bf16(_) => false,
        }
    }

    fn some_panels(
        &self,
        panels: Range<usize>,
        xs: &[f32],
        quantised: &QuantisedActivations,
        out: &DisjointParts<'_>,
    ) {
        match &self.weights {
            PackedWeights::F32(weights) => self.float_panels(weights, panels, xs, out),
            PackedWeights::F16(weights) => self.float_panels(weights, panels, xs, out),
            PackedWeights::Bf16(weights) => self.float_panels(weights, panels, xs, out),
            PackedWeights::Q8 { weights, scales } => {
                let (isa, blocks) = (Isa::detected(), self.columns / BLOCK);
                let rows: Vec<_> = quantised.rows(self.columns).collect();
                for (tile, rows) in rows.chunks(MOST_ROWS).enumerate() {
                    for p in panels.clone() {
                        let at = p * blocks * LANES;
                        let panel = Q8Panel {
                            weights: &weights[at * BLOCK..][..blocks * LANES * BLOCK],
                            scales: &scales[at..][..blocks * LANES],
                        };
                        q8_products(isa, panel, rows, |m, sums| {
                            self.write(p, tile * MOST_ROWS + m, sums, out);
                        });
                    }
                }
            }
            PackedWeights::Q40(weights) => self.q4_panels(weights, panels, quantised, out),
            PackedWeights::Q41(weights) => self.q4_panels(weights, panels, quantised, out),
            PackedWeights::Q4K(weights) => self.q4_panels(weights, panels, quantised, out),
        }
    }

    fn q4_panels<B: StoredBlock>(
        &self,
        weights: &Q4Panels<B>,
        panels: Range<usize>,
        quantised: &QuantisedActivations,
        out: &DisjointParts<'_>,
    ) {
        let rows: Vec<_> = quantised.rows(self.columns).collect();
        for (tile, rows) in rows.chunks(MOST_ROWS).enumerate() {
            for p in panels.clone() {
                q4_products(Isa::detected(), weights.panel(p), rows, |m, sums| {
                    self.write(p, tile * MOST_ROWS + m, sums, out);
                });
            }
        }
    }

    fn float_panels<W: Weight>(
        &self,
        weights: &[W],
        panels: Range<usize>,
        xs: &[f32],
        out: &DisjointParts<'_>,
    ) {
        let isa = Isa::detected();
        let size = self.columns * LANES;
        let cached = (CACHED_BYTES / (size * size_of::<W>())).max(8);
        let rows: Vec<_> = xs.chunks_exact(self.columns).collect();
        let all: Vec<_> = weights[panels.start * size..panels.end * size]
            .chunks_exact(size)
            .collect();
        for (group, some) in all.chunks(cached).enumerate() {
            let first = panels.start + group * cached;
            for (tile, rows) in rows.chunks(MOST_ROWS).enumerate() {
                float_products(isa, some, rows, |p, m, sums| {
                    self.write(first + p, tile * MOST_ROWS + m, sums, out);
                });
            }
        }
    }

    #[inline]
    fn write(&self, panel: usize, row: usize, sums: &Lanes, out: &DisjointParts<'_>) {
        let start = panel * LANES;
        let len = LANES.min(self.rows - start);
        // SAFETY: each panel belongs to one thread, so no other thread writes here.
        let out = unsafe { out.slice(row * self.rows + start, len) };
        match (&self.bias, out.first_chunk_mut()) {
            // With a known length this is one instruction instead of a call.
            (None, Some(out)) => Wide::load(sums).store(out),
            (None, None) => out.copy_from_slice(&sums[..len]),
            (Some(bias), _) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[start..]) {
                    *out = sum + bias;
                }
            }
        }
    }
}

fn strided<W: Weight>(panel: &[W], lane: usize, row: &mut [f32]) {
    let weights = panel.iter().skip(lane).step_by(LANES);
    for (value, weight) in row.iter_mut().zip(weights) {
        *value = weight.widen();
    }
}

/// Where in a quantised panel the weight of column `k` is.
fn q8_place(k: usize, lane: usize) -> usize {
    k / 4 * (4 * LANES) + lane * 4 + k % 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WeightType;
    use crate::model::cpu::q4;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn a_product_is_what_its_definition_says_in_every_type() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |count| -> Vec<f32> {
            (0..count)
                .map(|_| rng.random::<f32>() * 2.0 - 1.0)
                .collect()
        };
        for (rows, columns, batch) in [(5, 32, 1), (50, 96, 11), (700, 224, 9)] {
            let (weights, xs, bias) = (draw(rows * columns), draw(batch * columns), draw(rows));
            for (weight_type, tolerance) in [
                (WeightType::F32, 1e-5),
                (WeightType::F16, 5e-3),
                (WeightType::Bf16, 5e-2),
                (WeightType::Q8_0, 1e-1),
            ] {
                let read = |at: usize, row: &mut [f32]| {
                    row.copy_from_slice(&weights[at * columns..][..columns]);
                    Ok::<_, ()>(())
                };
                let matrix = Matrix::pack((rows, columns), weight_type, read).unwrap();
                let matrix = matrix.with_bias(bias.clone());
                let mut out = vec![0.0; batch * rows];
                matrix.product(&xs, &mut out, &mut QuantisedActivations::default());
                for (b, x) in xs.chunks(columns).enumerate() {
                    for r in 0..rows {
                        let row = &weights[r * columns..][..columns];
                        let exact: f32 = row.iter().zip(x).map(|(w, x)| w * x).sum();
                        let apart = (out[b * rows + r] - exact - bias[r]).abs();
                        assert!(apart < tolerance, "{weight_type:?} {r} {b}: {apart}");
                    }
                }
                let mut row = vec![0.0; columns];
                matrix.row(rows - 1, &mut row);
                for (kept, weight) in row.iter().zip(&weights[(rows - 1) * columns..]) {
                    assert!((kept - weight).abs() < 1e-2, "{weight_type:?}");
                }
            }
        }
    }

    fn random(rows: usize, columns: usize, weight_type: WeightType, rng: &mut StdRng) -> Matrix {
        let mut draw = |row: &mut [f32]| row.fill_with(|| rng.random::<f32>() - 0.5);
        match weight_type {
            WeightType::Q4_0 => of_4_bits::<Q40Block>(rows, columns, draw),
            WeightType::Q4_1 => of_4_bits::<Q41Block>(rows, columns, draw),
            WeightType::Q4_K => of_4_bits::<Q4KBlock>(rows, columns, draw),
            other => {
                let read = |_: usize, row: &mut [f32]| {
                    draw(row);
                    Ok::<_, ()>(())
                };
                Matrix::pack((rows, columns), other, read).unwrap()
            }
        }
    }

    fn of_4_bits<B: StoredBlock>(
        rows: usize,
        columns: usize,
        mut draw: impl FnMut(&mut [f32]),
    ) -> Matrix
    where
        PackedWeights: From<Q4Panels<B>>,
    {
        let mut row = vec![0.0; columns];
        let quantised = Matrix::pack_q4_blocks((rows, columns), |blocks| {
            draw(&mut row);
            q4::quantise::<B>(&row, blocks);
            Ok::<_, std::convert::Infallible>(())
        });
        quantised.unwrap()
    }

    #[test]
    fn a_product_with_4_bits_is_that_with_what_its_rows_read_as() {
        let mut rng = StdRng::seed_from_u64(3);
        let (rows, columns, batch) = (50, 512, 11);
        let xs: Vec<f32> = (0..batch * columns).map(|_| rng.random()).collect();
        let bias: Vec<f32> = (0..rows).map(|r| r as f32).collect();
        for weight_type in [WeightType::Q4_0, WeightType::Q4_1, WeightType::Q4_K] {
            let matrix = random(rows, columns, weight_type, &mut rng).with_bias(bias.clone());
            let mut out = vec![0.0; batch * rows];
            matrix.product(&xs, &mut out, &mut QuantisedActivations::default());
            let mut row = vec![0.0; columns];
            for r in 0..rows {
                matrix.row(r, &mut row);
                for (x, out) in xs.chunks(columns).zip(out.chunks(rows)) {
                    let exact: f32 = row.iter().zip(x).map(|(w, x)| w * x).sum();
                    // The difference comes from the activations' 8 bits.
                    let apart = (out[r] - exact - bias[r]).abs();
                    assert!(apart < 6e-2, "{weight_type:?} {r}: {apart}");
                }
            }
        }
    }

    #[test]
    fn a_row_of_a_product_does_not_know_the_batch() {
        let mut rng = StdRng::seed_from_u64(2);
        let (rows, columns, batch) = (300, 512, 13);
        let xs: Vec<f32> = (0..batch * columns).map(|_| rng.random()).collect();
        for weight_type in WeightType::ALL {
            let matrix = random(rows, columns, weight_type, &mut rng);
            let mut scratch = QuantisedActivations::default();
            let mut all = vec![0.0; batch * rows];
            matrix.product(&xs, &mut all, &mut scratch);
            for (x, wanted) in xs.chunks(columns).zip(all.chunks(rows)) {
                let mut alone = vec![0.0; rows];
                matrix.product(x, &mut alone, &mut scratch);
                assert_eq!(alone, wanted);
            }
        }
    }
}
