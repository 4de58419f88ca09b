//! Inner products of 16 rows of a matrix (a *panel*) with a few rows of activations.
//!
//! A plain version defines what is computed. Versions for AVX2 and AVX-512 give the same bits. Which
//! version runs is decided once, from the CPU's instruction sets.
//!
//! **Invariant:** every number is summed in an order that depends only on its own row and
//! activations. So a token's states have the same bits whatever else is in the batch, and however
//! its text was cut into steps.

mod panel;
mod plain;
mod q4;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_q4;

use std::sync::OnceLock;

use half::{bf16, f16};

pub(super) use panel::{BLOCK, LANES, Lanes, MOST_ROWS, Number, Q8Panel, Q8Row};
pub(super) use q4::{Q4Block, Q4KBlock, Q4Row, Q40Block, Q41Block, q4_products, quantise_signed};

/// The instruction sets that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best instruction set that this CPU supports.
    pub(super) fn detected() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::all().last().copied().unwrap_or(Isa::Plain))
    }

    /// All instruction sets that this CPU supports, the best last.
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Isa::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            all.extend(avx2.then_some(Isa::Avx2));
            all.extend((avx2 && avx512).then_some(Isa::Avx512));
        }
        all
    }
}

/// A weight as it is stored.
pub(super) trait Weight: Number {
    /// The panels' products with rows of activations; see [`float_products`].
    ///
    /// # Safety
    /// The CPU supports `isa`.
    #[doc(hidden)]
    unsafe fn products(
        isa: Isa,
        panels: &[&[Self]],
        xs: &[&[f32]],
        each: &mut impl FnMut(usize, usize, &Lanes),
    );
}

macro_rules! weight {
    ($type:ty, $avx512:ident) => {
        impl Weight for $type {
            unsafe fn products(
                isa: Isa,
                panels: &[&[Self]],
                xs: &[&[f32]],
                each: &mut impl FnMut(usize, usize, &Lanes),
            ) {
                match isa {
                    Isa::Plain => plain::float_products(panels, xs, each),
                    // SAFETY: the caller promises that the CPU supports it.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => unsafe { x86::float_products_avx2(panels, xs, each) },
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => unsafe { x86::$avx512(panels, xs, each) },
                }
            }
        }
    };
}

weight!(f32, f32_products);
weight!(f16, f16_products);
weight!(bf16, bf16_products);

/// For each panel `p` and each row `m` of `xs` (at most [`MOST_ROWS`]) calls `each(p, m, sums)` with the
/// 16 inner products of the panel's rows and that row, summed column by column with fused
/// multiply-adds. A panel is `columns` times 16 weights.
pub(super) fn float_products<W: Weight>(
    isa: Isa,
    panels: &[&[W]],
    xs: &[&[f32]],
    mut each: impl FnMut(usize, usize, &Lanes),
) {
    for panel in panels {
        for x in xs {
            assert_eq!(panel.len(), x.len() * LANES);
        }
    }
    // SAFETY: an `Isa` other than `Plain` only comes from what was detected.
    unsafe { W::products(isa, panels, xs, &mut each) }
}

/// As [`float_products`]: within a block of 32 columns the sum is exact, in integers; blocks are added
/// in f32, each multiplied by its two scales.
pub(super) fn q8_products(
    isa: Isa,
    panel: Q8Panel<'_>,
    xs: &[Q8Row<'_>],
    mut each: impl FnMut(usize, &Lanes),
) {
    let blocks = panel.weights.len() / (BLOCK * LANES);
    assert_eq!(panel.weights.len(), blocks * BLOCK * LANES);
    assert_eq!(panel.scales.len(), blocks * LANES);
    for x in xs {
        assert!(x.values.len() == blocks * BLOCK && x.scales.len() == blocks);
    }
    match isa {
        Isa::Plain => plain::q8_products(panel, xs, &mut each),
        // SAFETY: an `Isa` other than `Plain` only comes from what was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::q8_products_avx2(panel, xs, &mut each) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::q8_products(panel, xs, &mut each) },
    }
}

/// Quantises a row: in each block of 32 the largest magnitude becomes 127 (Q8_0 of ggml).
pub(super) fn quantise(row: &[f32], values: &mut [u8], scales: &mut [f32]) {
    let blocks = row.as_chunks().0.iter();
    for ((block, values), scale) in blocks.zip(values.as_chunks_mut().0).zip(scales) {
        *scale = quantise_block(block, values);
    }
}

/// Quantises a block and returns its scale. It is not inlined, since the compiler would vectorise the loop over
/// blocks and gather every number.
#[inline(never)]
fn quantise_block(block: &[f32; BLOCK], values: &mut [u8; BLOCK]) -> f32 {
    let largest = largest_magnitude(block);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (value, x) in values.iter_mut().zip(block) {
        *value = (nearest(x * inverse) as u8).wrapping_add(128);
    }
    largest / 127.0
}

/// The largest magnitude of some numbers; those that are none do not count.
#[inline(always)]
pub(super) fn largest_magnitude(numbers: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, x) in lanes.iter_mut().zip(chunk) {
            *most = most.max(x.abs());
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(0f32, |most, x| most.max(x.abs()))
}

/// The nearest integer of a number below 2^22 in magnitude, ties to even: adding 1.5 * 2^23 leaves it in the lowest
/// bits. Unlike a conversion it checks nothing, so that loops are short.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn floats(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| rng.random::<f32>() * 2.0 - 1.0)
            .collect()
    }

    fn check<W: Weight>() {
        let mut rng = StdRng::seed_from_u64(3);
        for (columns, panels, rows) in [(1, 1, 1), (33, 5, 7), (160, 9, 8), (64, 4, 3)] {
            let panels: Vec<Vec<W>> = (0..panels)
                .map(|_| {
                    floats(&mut rng, columns * LANES)
                        .into_iter()
                        .map(W::narrow)
                        .collect()
                })
                .collect();
            let panels: Vec<&[W]> = panels.iter().map(Vec::as_slice).collect();
            let xs: Vec<Vec<f32>> = (0..rows).map(|_| floats(&mut rng, columns)).collect();
            let xs: Vec<&[f32]> = xs.iter().map(Vec::as_slice).collect();
            let results = |isa, panels: &[&[W]], xs: &[&[f32]]| {
                let mut sums = vec![[0f32; LANES]; panels.len() * xs.len()];
                float_products(isa, panels, xs, |p, m, lanes| {
                    sums[p * xs.len() + m] = *lanes
                });
                sums
            };
            let wanted = results(Isa::Plain, &panels, &xs);
            for isa in Isa::all() {
                assert_eq!(results(isa, &panels, &xs), wanted, "{isa:?}");
                // Computing one row and one panel alone gives the same bits.
                let alone = results(isa, &panels[panels.len() - 1..], &xs[rows - 1..]);
                assert_eq!(alone.last(), wanted.last(), "{isa:?}");
            }
            let exact: f64 = (0..columns)
                .map(|k| f64::from(panels[0][k * LANES].widen()) * f64::from(xs[0][k]))
                .sum();
            assert!((f64::from(wanted[0][0]) - exact).abs() < 1e-4);
        }
    }

    #[test]
    fn all_versions_of_the_float_products_give_the_same_bits() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }

    #[test]
    fn all_versions_of_the_8_bit_products_give_the_same_bits() {
        let mut rng = StdRng::seed_from_u64(4);
        for (blocks, rows) in [(1, 1), (5, 8), (28, 3), (7, 6)] {
            let weights: Vec<i8> = (0..blocks * BLOCK * LANES)
                .map(|_| rng.random_range(-127..=127))
                .collect();
            let scales: Vec<f16> = floats(&mut rng, blocks * LANES)
                .into_iter()
                .map(f16::from_f32)
                .collect();
            let panel = Q8Panel {
                weights: &weights,
                scales: &scales,
            };
            let rows: Vec<_> = (0..rows)
                .map(|_| {
                    let row = floats(&mut rng, blocks * BLOCK);
                    let (mut values, mut scales) = (vec![0; row.len()], vec![0.0; blocks]);
                    quantise(&row, &mut values, &mut scales);
                    (values, scales)
                })
                .collect();
            let xs: Vec<_> = rows
                .iter()
                .map(|(values, scales)| Q8Row { values, scales })
                .collect();
            let results = |isa, xs: &[Q8Row<'_>]| {
                let mut sums = vec![[0f32; LANES]; xs.len()];
                q8_products(isa, panel, xs, |m, lanes| sums[m] = *lanes);
                sums
            };
            let wanted = results(Isa::Plain, &xs);
            for isa in Isa::all() {
                assert_eq!(results(isa, &xs), wanted, "{isa:?}");
                assert_eq!(
                    results(isa, &xs[xs.len() - 1..]).last(),
                    wanted.last(),
                    "{isa:?}"
                );
            }
        }
    }

    #[test]
    fn quantising_keeps_the_largest_magnitude_and_rounds_the_rest() {
        let mut row = vec![0.0f32; BLOCK];
        (row[0], row[1], row[2]) = (-2.0, 1.0, 0.004);
        let (mut values, mut scales) = (vec![0; BLOCK], vec![0.0]);
        quantise(&row, &mut values, &mut scales);
        assert_eq!(
            (values[0], values[1], values[2], values[3]),
            (1, 192, 128, 128)
        );
        assert!((scales[0] - 2.0 / 127.0).abs() < 1e-9);
    }
}
