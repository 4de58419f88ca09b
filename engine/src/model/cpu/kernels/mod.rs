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

pub(super) use panel::{
    BLOCK, BlockSums, LANES, LEVEL_OFFSET, Lanes, MOST_ROWS, Number, Q8Panel, Q8Row,
};
pub(super) use q4::{Q4Block, Q4KBlock, Q40Block, Q41Block, q4_products};

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
        check_row(x, blocks);
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

/// The kernels read `blocks` blocks of a row without further checks.
fn check_row(x: &Q8Row<'_>, blocks: usize) {
    assert_eq!(x.values.len(), blocks * BLOCK);
    assert!(x.scales.len() == blocks && x.sums.len() == blocks);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpu::quantised::quantise;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn floats(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| rng.random::<f32>() * 2.0 - 1.0)
            .collect()
    }

    /// A row of activations that owns its blocks.
    pub(super) struct QuantisedRow {
        pub(super) values: Vec<i8>,
        pub(super) scales: Vec<f32>,
        pub(super) sums: Vec<BlockSums>,
    }

    impl QuantisedRow {
        pub(super) fn new(row: &[f32]) -> Self {
            let blocks = row.len() / BLOCK;
            let mut new = Self {
                values: vec![0; row.len()],
                scales: vec![0.0; blocks],
                sums: vec![BlockSums::default(); blocks],
            };
            quantise(row, &mut new.values, &mut new.scales, &mut new.sums);
            new
        }

        pub(super) fn borrowed(&self) -> Q8Row<'_> {
            Q8Row {
                values: &self.values,
                scales: &self.scales,
                sums: &self.sums,
            }
        }
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
            // The largest magnitudes of both sides are among them.
            let weights: Vec<u8> = (0..blocks * BLOCK * LANES)
                .map(|_| [0, 255, rng.random()][rng.random_range(0..3)])
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
                    let mut row = floats(&mut rng, blocks * BLOCK);
                    row[..4].copy_from_slice(&[1.0, 1.0, -1.0, -1.0]);
                    QuantisedRow::new(&row)
                })
                .collect();
            let xs: Vec<_> = rows.iter().map(QuantisedRow::borrowed).collect();
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
}
