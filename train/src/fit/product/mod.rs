//! Products of token rows with packed weight matrices.
//!
//! A matrix is stored in panels of 32 outputs. A tile of up to 12 rows and 32 outputs stays in registers
//! during one pass over the inner dimension. Each number is summed in the order of the inner dimension, so a
//! row's result depends only on that row.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
mod tile;

use half::bf16;

use tile::{PANEL, TILE};

pub use tile::{Element, Kernel, Tile};

impl Element for f32 {
    const GROUP: usize = 1;

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn kernel() -> Option<Kernel<Self>> {
        Some(f32_kernel())
    }
}

impl Element for bf16 {
    const GROUP: usize = 2;

    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        Self::from_bits(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn kernel() -> Option<Kernel<Self>> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
            return Some(avx512::multiply_bf16);
        }
        None
    }
}

/// The kernels for f32 that this machine can run, the fastest first.
fn f32_kernels() -> impl Iterator<Item = Kernel<f32>> {
    let mut kernels: [Option<Kernel<f32>>; 3] = [None, None, Some(plain::multiply)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            kernels[0] = Some(avx512::multiply_f32);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            kernels[1] = Some(avx2::multiply);
        }
    }
    kernels.into_iter().flatten()
}

fn f32_kernel() -> Kernel<f32> {
    f32_kernels().next().unwrap_or(plain::multiply)
}

/// Rows of numbers in the type that products use, each padded with zeros to whole groups.
#[derive(Clone, Debug, Default)]
pub struct Rows<E> {
    values: Vec<E>,
    width: usize,
    stride: usize,
}

impl<E: Element> Rows<E> {
    /// Converts rows of `width` numbers each.
    pub fn new(values: &[f32], width: usize) -> Self {
        let stride = width.next_multiple_of(E::GROUP);
        let mut rows = vec![E::default(); values.len() / width * stride];
        for (row, values) in rows
            .chunks_exact_mut(stride)
            .zip(values.chunks_exact(width))
        {
            for (to, value) in row.iter_mut().zip(values) {
                *to = E::from_f32(*value);
            }
        }
        Self {
            values: rows,
            width,
            stride,
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.values.len() / self.stride.max(1)
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One row.
    pub fn row(&self, at: usize) -> &[E] {
        &self.values[at * self.stride..][..self.width]
    }

    /// All rows as f32, one after the other.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.count() * self.width];
        let rows = self.values.chunks_exact(self.stride.max(1));
        for (row, to) in rows.zip(values.chunks_exact_mut(self.width.max(1))) {
            for (to, value) in to.iter_mut().zip(row) {
                *to = value.to_f32();
            }
        }
        values
    }
}

/// A matrix packed for products: `outputs` times `inner` numbers.
#[derive(Clone, Debug)]
pub struct PackedMatrix<E> {
    panels: Vec<E>,
    outputs: usize,
    inner: usize,
}

impl<E: Element> PackedMatrix<E> {
    /// Packs a matrix whose rows are the outputs: `inner` numbers each.
    pub fn from_rows(matrix: &[f32], outputs: usize, inner: usize) -> Self {
        Self::pack(outputs, inner, |output, at| matrix[output * inner + at])
    }

    /// Packs the transpose of a matrix: its columns are the outputs, its `inner` rows hold one number for
    /// each.
    pub fn from_columns(matrix: &[f32], outputs: usize, inner: usize) -> Self {
        Self::pack(outputs, inner, |output, at| matrix[at * outputs + output])
    }

    fn pack(outputs: usize, inner: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let padded = inner.next_multiple_of(E::GROUP);
        let mut panels = vec![E::default(); outputs.div_ceil(PANEL) * PANEL * padded];
        for (number, panel) in panels.chunks_exact_mut(PANEL * padded).enumerate() {
            for lane in 0..PANEL.min(outputs - number * PANEL) {
                for at in 0..inner {
                    let (group, within) = (at / E::GROUP, at % E::GROUP);
                    panel[(group * PANEL + lane) * E::GROUP + within] =
                        E::from_f32(value(number * PANEL + lane, at));
                }
            }
        }
        Self {
            panels,
            outputs,
            inner,
        }
    }

    /// Numbers of a product for each row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Copies one output's weights, `inner` numbers.
    pub fn copy_row(&self, output: usize, to: &mut [f32]) {
        let padded = self.inner.next_multiple_of(E::GROUP);
        let panel = &self.panels[output / PANEL * PANEL * padded..][..PANEL * padded];
        for (at, to) in to.iter_mut().enumerate().take(self.inner) {
            let (group, within) = (at / E::GROUP, at % E::GROUP);
            *to = panel[(group * PANEL + output % PANEL) * E::GROUP + within].to_f32();
        }
    }

    /// Replaces one output's weights.
    pub fn set_row(&mut self, output: usize, values: &[f32]) {
        let padded = self.inner.next_multiple_of(E::GROUP);
        let panel = &mut self.panels[output / PANEL * PANEL * padded..][..PANEL * padded];
        for (at, value) in values.iter().enumerate().take(self.inner) {
            let (group, within) = (at / E::GROUP, at % E::GROUP);
            panel[(group * PANEL + output % PANEL) * E::GROUP + within] = E::from_f32(*value);
        }
    }

    /// Replaces one inner position's weights: one number for each output.
    pub fn set_column(&mut self, at: usize, values: &[f32]) {
        let padded = self.inner.next_multiple_of(E::GROUP);
        let (group, within) = (at / E::GROUP, at % E::GROUP);
        for (output, value) in values.iter().enumerate().take(self.outputs) {
            let panel = output / PANEL * PANEL * padded;
            self.panels[panel + (group * PANEL + output % PANEL) * E::GROUP + within] =
                E::from_f32(*value);
        }
    }

    /// Multiplies each row by the matrix. The result (rows, outputs) is added to `out` or replaces it.
    pub fn product(&self, rows: &Rows<E>, out: &mut [f32], add: bool) {
        let count = rows.count();
        assert_eq!(rows.width, self.inner, "the inner dimensions differ");
        assert_eq!(
            out.len(),
            count * self.outputs,
            "the output has another size"
        );
        let panels = self.panels.chunks_exact(PANEL * rows.stride).enumerate();
        if let Some(kernel) = E::kernel() {
            for (number, panel) in panels {
                panel_product(kernel, rows, panel, (out, self.outputs), number, add);
            }
        } else {
            self.widened_product(rows, out, add);
        }
    }

    /// [`Self::product`] in f32: each number is widened once, before it is multiplied.
    fn widened_product(&self, rows: &Rows<E>, out: &mut [f32], add: bool) {
        let panels = self.panels.chunks_exact(PANEL * rows.stride).enumerate();
        let rows = Rows {
            values: rows.to_f32(),
            width: rows.width,
            stride: rows.width,
        };
        let mut widened = vec![0.0; PANEL * self.inner];
        for (number, panel) in panels {
            widen(panel, &mut widened);
            panel_product(
                f32_kernel(),
                &rows,
                &widened,
                (out, self.outputs),
                number,
                add,
            );
        }
    }
}

/// Multiplies all rows by panel `number` of a matrix with `outputs` outputs.
fn panel_product<E>(
    kernel: Kernel<E>,
    rows: &Rows<E>,
    panel: &[E],
    (out, outputs): (&mut [f32], usize),
    number: usize,
    add: bool,
) {
    let (count, first) = (out.len() / outputs, number * PANEL);
    for row in (0..count).step_by(TILE) {
        let tile = Tile {
            rows: rows.values[row * rows.stride..].as_ptr(),
            row_stride: rows.stride,
            count: TILE.min(count - row),
            panel: panel.as_ptr(),
            inner: rows.stride,
            out: out[row * outputs + first..].as_mut_ptr(),
            out_stride: outputs,
            columns: PANEL.min(outputs - first),
            add,
        };
        // SAFETY: the rows, the panel and the results of this tile lie within the slices above, and
        // the processor has the kernel's instructions.
        unsafe { kernel(&tile) };
    }
}

/// Writes a panel's numbers in the order that kernels for f32 read them in; padding is left out.
fn widen<E: Element>(panel: &[E], to: &mut [f32]) {
    let groups = panel.chunks_exact(PANEL * E::GROUP);
    for (group, to) in groups.zip(to.chunks_mut(PANEL * E::GROUP)) {
        for (within, to) in to.chunks_exact_mut(PANEL).enumerate() {
            for (lane, to) in to.iter_mut().enumerate() {
                *to = group[lane * E::GROUP + within].to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn random(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn products_are_what_their_definition_gives<E: Element>(tolerance: f32) {
        let mut rng = StdRng::seed_from_u64(7);
        for (count, outputs, inner) in [(1, 1, 1), (5, 33, 7), (12, 32, 64), (29, 97, 48)] {
            let (x, w) = (
                random(&mut rng, count * inner),
                random(&mut rng, outputs * inner),
            );
            let transposed: Vec<f32> = (0..inner * outputs)
                .map(|i| w[i % outputs * inner + i / outputs])
                .collect();
            let rows = Rows::<E>::new(&x, inner);
            let packed = PackedMatrix::<E>::from_rows(&w, outputs, inner);
            let mut out = vec![1.0; count * outputs];
            packed.product(&rows, &mut out, true);
            let mut again = vec![5.0; count * outputs];
            PackedMatrix::<E>::from_columns(&transposed, outputs, inner)
                .product(&rows, &mut again, false);
            for (i, (out, again)) in out.iter().zip(&again).enumerate() {
                let (row, output) = (i / outputs, i % outputs);
                let sum: f32 = (0..inner)
                    .map(|k| {
                        let weight = E::from_f32(w[output * inner + k]).to_f32();
                        rows.row(row)[k].to_f32() * weight
                    })
                    .sum();
                assert!(
                    (out - 1.0 - sum).abs() < tolerance,
                    "{out} is not 1 + {sum}"
                );
                assert!((again - sum).abs() < tolerance, "{again} is not {sum}");
            }
            let mut row = vec![0.0; inner];
            packed.copy_row(outputs - 1, &mut row);
            let last = &w[(outputs - 1) * inner..];
            assert!(
                row.iter()
                    .zip(last)
                    .all(|(a, b)| *a == E::from_f32(*b).to_f32())
            );
        }
    }

    #[test]
    fn every_kernel_of_this_machine_gives_the_same_tile() {
        let mut rng = StdRng::seed_from_u64(8);
        for (count, columns, inner) in [(1, 1, 1), (5, 17, 7), (7, 32, 48), (12, 31, 33)] {
            let rows = Rows::<f32>::new(&random(&mut rng, count * inner), inner);
            let panel = random(&mut rng, PANEL * inner);
            let before = random(&mut rng, count * columns);
            for add in [false, true] {
                let results = f32_kernels().map(|kernel| {
                    let mut out = before.clone();
                    panel_product(kernel, &rows, &panel, (&mut out, columns), 0, add);
                    out
                });
                let results: Vec<Vec<f32>> = results.collect();
                for other in &results[1..] {
                    for (a, b) in results[0].iter().zip(other) {
                        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_widened_panel_gives_what_the_kernel_for_its_type_gives() {
        let mut rng = StdRng::seed_from_u64(9);
        let (count, outputs, inner) = (14, 40, 51);
        let rows = Rows::<bf16>::new(&random(&mut rng, count * inner), inner);
        let packed =
            PackedMatrix::<bf16>::from_rows(&random(&mut rng, outputs * inner), outputs, inner);
        let mut direct = vec![0.0; count * outputs];
        packed.product(&rows, &mut direct, false);
        let mut widened = vec![0.0; count * outputs];
        packed.widened_product(&rows, &mut widened, false);
        for (a, b) in direct.iter().zip(&widened) {
            assert!((a - b).abs() < 1e-5, "{a} is not {b}");
        }
    }

    #[test]
    fn products_in_f32_are_what_their_definition_gives() {
        products_are_what_their_definition_gives::<f32>(1e-5);
    }

    #[test]
    fn products_in_bf16_are_what_their_definition_gives() {
        products_are_what_their_definition_gives::<bf16>(1e-5);
    }

    #[test]
    fn a_row_or_a_column_is_replaced_alone() {
        let matrix = vec![1.0; 40 * 6];
        let mut packed = PackedMatrix::<bf16>::from_rows(&matrix, 40, 6);
        packed.set_row(33, &[2.0; 6]);
        packed.set_column(5, &[3.0; 40]);
        let mut row = vec![0.0; 6];
        packed.copy_row(33, &mut row);
        assert_eq!(row, [2.0, 2.0, 2.0, 2.0, 2.0, 3.0]);
        packed.copy_row(32, &mut row);
        assert_eq!(row, [1.0, 1.0, 1.0, 1.0, 1.0, 3.0]);
    }
}
