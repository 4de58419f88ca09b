//! The products in plain Rust. They define the result of all other versions, and run on CPUs that
//! support none of those.

use half::f16;

use super::panel::{BLOCK, LANES, LEVEL_OFFSET, Lanes, Number, Q8Panel, Q8Row};

/// See [`super::float_products`].
#[inline(always)]
pub(super) fn float_products<W: Number>(
    panels: &[&[W]],
    xs: &[&[f32]],
    each: &mut impl FnMut(usize, usize, &Lanes),
) {
    for (p, panel) in panels.iter().enumerate() {
        for (m, x) in xs.iter().enumerate() {
            let mut sums = [0f32; LANES];
            for (weights, x) in panel.chunks_exact(LANES).zip(*x) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = weight.widen().mul_add(*x, *sum);
                }
            }
            each(p, m, &sums);
        }
    }
}

/// See [`super::q8_products`].
pub(super) fn q8_products(
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    each: &mut impl FnMut(usize, &Lanes),
) {
    for (m, x) in xs.iter().enumerate() {
        let mut sums = [0f32; LANES];
        let blocks = panel.weights.chunks_exact(BLOCK * LANES);
        let scaled = blocks.zip(panel.scales.chunks_exact(LANES));
        for ((weights, scales), (values, scale)) in
            scaled.zip(x.values.chunks_exact(BLOCK).zip(x.scales))
        {
            let exact = block_sums(weights, values);
            for ((sum, exact), weight_scale) in sums.iter_mut().zip(exact).zip(scales) {
                *sum = (exact as f32).mul_add(f16::to_f32(*weight_scale) * scale, *sum);
            }
        }
        each(m, &sums);
    }
}

fn block_sums(weights: &[u8], values: &[i8]) -> [i32; LANES] {
    let mut sums = [0i32; LANES];
    for (weights, values) in weights.chunks_exact(4 * LANES).zip(values.chunks_exact(4)) {
        for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(4)) {
            for (weight, value) in weights.iter().zip(values) {
                *sum += (i32::from(*weight) - LEVEL_OFFSET) * i32::from(*value);
            }
        }
    }
    sums
}
