//! A matrix packed for the kernels, and its product with a batch of activations.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use rayon::prelude::*;

use super::disjoint::Disjoint;
use super::kernels::{
    BLOCK, Isa, LANES, Lanes, MOST_ROWS, Q8Panel, Q8Row, Weight, float_products, q8_products,
    quantise,
};
use crate::model::WeightType;

/// Multiplications below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 17;
/// Bytes of panels that stay in the second-level cache while all rows of a batch pass by.
const CACHED_BYTES: usize = 128 << 10;
/// Pieces of work a thread, so that one that is held up delays nobody.
const PIECES: usize = 4;

/// Bytes of a stored block of `Q8_0`: a scale in 16 bits and the levels.
const STORED_BLOCK: usize = 2 + BLOCK;

/// `(rows, columns)`, in panels of 16 rows; the last one is filled up with zeros.
#[derive(Debug)]
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    weights: Packed,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Packed {
    F32(Aligned<f32>),
    F16(Aligned<f16>),
    Bf16(Aligned<bf16>),
    Q8 {
        weights: Aligned<i8>,
        scales: Aligned<f16>,
    },
}

impl Matrix {
    /// Packs a matrix whose rows `read` writes one after another, `columns` numbers each. Quantised
    /// types need columns in whole blocks of 32; other matrices are kept in bf16 then.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn pack<E>(
        (rows, columns): (usize, usize),
        weight_type: WeightType,
        mut read: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let panels = rows.div_ceil(LANES);
        let mut packed = match weight_type {
            WeightType::F32 => Packed::F32(Aligned::zeros(panels * columns * LANES)),
            WeightType::F16 => Packed::F16(Aligned::zeros(panels * columns * LANES)),
            WeightType::Q8_0 if columns.is_multiple_of(BLOCK) => Packed::Q8 {
                weights: Aligned::zeros(panels * columns * LANES),
                scales: Aligned::zeros(panels * columns / BLOCK * LANES),
            },
            WeightType::Bf16 | WeightType::Q8_0 => {
                Packed::Bf16(Aligned::zeros(panels * columns * LANES))
            }
        };
        let mut row = vec![0f32; columns];
        for at in 0..rows {
            read(at, &mut row)?;
            packed.set_row(at, &row);
        }
        Ok(Self {
            rows,
            columns,
            weights: packed,
            bias: None,
        })
    }

    /// Packs a matrix that is stored in ggml's blocks of `Q8_0`, which `read` writes row by row, as it is.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn pack_q8_blocks<E>(
        (rows, columns): (usize, usize),
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (panels, blocks) = (rows.div_ceil(LANES), columns / BLOCK);
        let mut weights = Aligned::zeros(panels * columns * LANES);
        let mut scales = Aligned::zeros(panels * blocks * LANES);
        let mut row = vec![0; blocks * STORED_BLOCK];
        for at in 0..rows {
            read(&mut row)?;
            let (first, lane) = (at / LANES * blocks, at % LANES);
            for (block, stored) in (first..).zip(row.as_chunks::<STORED_BLOCK>().0) {
                let [low, high, levels @ ..] = stored;
                scales[block * LANES + lane] = f16::from_le_bytes([*low, *high]);
                for (k, level) in levels.iter().enumerate() {
                    weights[block * BLOCK * LANES + q8_place(k, lane)] = level.cast_signed();
                }
            }
        }
        Ok(Self {
            rows,
            columns,
            weights: Packed::Q8 { weights, scales },
            bias: None,
        })
    }

    /// With numbers that are added to each product.
    pub(crate) fn with_bias(mut self, bias: Vec<f32>) -> Self {
        assert_eq!(bias.len(), self.rows);
        self.bias = Some(bias);
        self
    }

    /// Numbers in a product.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Writes row `at` to `row`, as numbers: an embedding is looked up in its head.
    pub(crate) fn row(&self, at: usize, row: &mut [f32]) {
        let (panel, lane) = (at / LANES, at % LANES);
        let start = panel * self.columns * LANES;
        match &self.weights {
            Packed::F32(weights) => strided(&weights[start..], lane, row),
            Packed::F16(weights) => strided(&weights[start..], lane, row),
            Packed::Bf16(weights) => strided(&weights[start..], lane, row),
            Packed::Q8 { weights, scales } => {
                for (k, value) in row.iter_mut().enumerate() {
                    let weight = weights[start + q8_place(k, lane)];
                    let scale = scales[(start / BLOCK) + k / BLOCK * LANES + lane];
                    *value = f32::from(weight) * scale.to_f32();
                }
            }
        }
    }

    /// `xs` is `(batch, columns)`, `out` is `(batch, rows)`: `out = xs * self^T + bias`.
    ///
    /// **Invariant:** a row of `out` is the same bits whatever the other rows of `xs` are.
    pub(crate) fn product(&self, xs: &[f32], out: &mut [f32], scratch: &mut Quantised) {
        let batch = xs.len() / self.columns;
        debug_assert_eq!(xs.len(), batch * self.columns);
        debug_assert_eq!(out.len(), batch * self.rows);
        if matches!(self.weights, Packed::Q8 { .. }) {
            scratch.fill(xs, self.columns);
        }
        let (scratch, out) = (&*scratch, Disjoint::new(out));
        let panels = self.rows.div_ceil(LANES);
        let threads = rayon::current_num_threads();
        if threads == 1 || batch * self.rows * self.columns < WORTH_A_THREAD {
            return self.some_panels(0..panels, xs, scratch, &out);
        }
        let piece = panels.div_ceil(threads * PIECES);
        (0..panels.div_ceil(piece)).into_par_iter().for_each(|at| {
            let range = at * piece..((at + 1) * piece).min(panels);
            self.some_panels(range, xs, scratch, &out);
        });
    }

    fn some_panels(&self, panels: Range<usize>, xs: &[f32], q8: &Quantised, out: &Disjoint<'_>) {
        match &self.weights {
            Packed::F32(weights) => self.float_panels(weights, panels, xs, out),
            Packed::F16(weights) => self.float_panels(weights, panels, xs, out),
            Packed::Bf16(weights) => self.float_panels(weights, panels, xs, out),
            Packed::Q8 { weights, scales } => {
                let (isa, blocks) = (Isa::detected(), self.columns / BLOCK);
                let rows: Vec<_> = q8.rows(self.columns).collect();
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
        }
    }

    fn float_panels<W: Weight>(
        &self,
        weights: &[W],
        panels: Range<usize>,
        xs: &[f32],
        out: &Disjoint<'_>,
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
    fn write(&self, panel: usize, row: usize, sums: &Lanes, out: &Disjoint<'_>) {
        let start = panel * LANES;
        let len = LANES.min(self.rows - start);
        // SAFETY: each panel is one thread's, so nobody else writes here.
        let out = unsafe { out.slice(row * self.rows + start, len) };
        match &self.bias {
            None => out.copy_from_slice(&sums[..len]),
            Some(bias) => {
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

/// Where in a quantised panel the weight of column `k` stands.
fn q8_place(k: usize, lane: usize) -> usize {
    k / 4 * (4 * LANES) + lane * 4 + k % 4
}

impl Packed {
    fn set_row(&mut self, at: usize, row: &[f32]) {
        fn set<W: Weight>(weights: &mut [W], lane: usize, row: &[f32]) {
            let places = weights.iter_mut().skip(lane).step_by(LANES);
            for (place, value) in places.zip(row) {
                *place = W::narrow(*value);
            }
        }
        let (panel, lane) = (at / LANES, at % LANES);
        let start = panel * row.len() * LANES;
        match self {
            Packed::F32(weights) => set(&mut weights[start..], lane, row),
            Packed::F16(weights) => set(&mut weights[start..], lane, row),
            Packed::Bf16(weights) => set(&mut weights[start..], lane, row),
            Packed::Q8 { weights, scales } => {
                for (block, values) in row.chunks_exact(BLOCK).enumerate() {
                    let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
                    // The scale as it is kept, so that what is rounded off is made up for.
                    let scale = f16::from_f32(largest / 127.0);
                    scales[start / BLOCK + block * LANES + lane] = scale;
                    let scale = scale.to_f32();
                    for (k, value) in values.iter().enumerate() {
                        let level = if scale > 0.0 { value / scale } else { 0.0 };
                        let level = level.round_ties_even().clamp(-127.0, 127.0);
                        weights[start + q8_place(block * BLOCK + k, lane)] = level as i8;
                    }
                }
            }
        }
    }
}

/// A batch of activations in 8 bits, kept to be filled again.
#[derive(Debug, Default)]
pub(crate) struct Quantised {
    values: Vec<u8>,
    scales: Vec<f32>,
}

impl Quantised {
    fn fill(&mut self, xs: &[f32], columns: usize) {
        let blocks = columns / BLOCK;
        self.values.resize(xs.len(), 0);
        self.scales.resize(xs.len() / BLOCK, 0.0);
        let quantise = |((x, values), scales): ((&[f32], &mut [u8]), &mut [f32])| {
            quantise(x, values, scales);
        };
        if xs.len() < WORTH_A_THREAD {
            xs.chunks_exact(columns)
                .zip(self.values.chunks_exact_mut(columns))
                .zip(self.scales.chunks_exact_mut(blocks))
                .for_each(quantise);
        } else {
            xs.par_chunks_exact(columns)
                .zip(self.values.par_chunks_exact_mut(columns))
                .zip(self.scales.par_chunks_exact_mut(blocks))
                .for_each(quantise);
        }
    }

    fn rows(&self, columns: usize) -> impl Iterator<Item = Q8Row<'_>> {
        let scales = self.scales.chunks_exact(columns / BLOCK);
        self.values
            .chunks_exact(columns)
            .zip(scales)
            .map(|(values, scales)| Q8Row { values, scales })
    }
}

/// Numbers that start on a cache line.
#[derive(Debug)]
struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    of: std::marker::PhantomData<T>,
}

#[derive(Debug, Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl<T: Pod> Aligned<T> {
    fn zeros(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        Self {
            lines: vec![Line::zeroed(); lines],
            len,
            of: std::marker::PhantomData,
        }
    }
}

impl<T: Pod> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                matrix.product(&xs, &mut out, &mut Quantised::default());
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

    #[test]
    fn a_row_of_a_product_does_not_know_the_batch() {
        let mut rng = StdRng::seed_from_u64(2);
        let (rows, columns, batch) = (300, 512, 13);
        let xs: Vec<f32> = (0..batch * columns).map(|_| rng.random()).collect();
        for weight_type in [WeightType::F32, WeightType::Bf16, WeightType::Q8_0] {
            let read = |_: usize, row: &mut [f32]| {
                row.fill_with(|| rng.random::<f32>() - 0.5);
                Ok::<_, ()>(())
            };
            let matrix = Matrix::pack((rows, columns), weight_type, read).unwrap();
            let mut scratch = Quantised::default();
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
