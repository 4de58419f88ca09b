//! Products with 4-bit weights: the blocks, the choice of the version, and the plain version.

use bytemuck::Zeroable;
use half::f16;

use super::panel::{BLOCK, LANES, Lanes, Q8Row};
use super::{Isa, check_row};

/// Columns that share `d` and `dmin` in `Q4_K`.
const SUPER_BLOCK: usize = 256;
const SUPER_PARTS: usize = SUPER_BLOCK / BLOCK;
/// Bytes of 16 rows that the kernels read at a time: two groups of four columns.
const PAIR: usize = 4 * LANES;
const PAIRS: usize = BLOCK / 8;

/// The 4 bits of 32 columns of 16 rows: byte `4 * row + i` of pair `p` holds column `4p + i` in the lower
/// half, and column `16 + 4p + i` in the upper one.
pub(crate) type Quants = [[u8; PAIR]; PAIRS];

/// A block of a panel of 4-bit weights, made of one of ggml's blocks from each of 16 rows. It has one or
/// more parts of 32 columns. A weight is `scale * quant - min`, with the scale and minimum of its part
/// and row.
pub(crate) trait Q4Block: Copy + Zeroable + Send + Sync + 'static {
    /// The number of parts.
    const PARTS: usize;
    /// The factor of the minima.
    const MIN_TIMES: f32;
    fn quants(&self, part: usize) -> &Quants;
    fn quants_mut(&mut self, part: usize) -> &mut Quants;
    fn scale(&self, part: usize) -> Factor<'_>;
    /// The minimum, without the factor [`Q4Block::MIN_TIMES`] that all minima are multiplied by.
    fn min(&self, part: usize) -> Factor<'_>;

    #[inline(always)]
    fn parts(&self) -> usize {
        Self::PARTS
    }

    #[inline(always)]
    fn min_times(&self) -> f32 {
        Self::MIN_TIMES
    }

    /// The weight in column `k` of a row.
    fn weight(&self, lane: usize, k: usize) -> f32 {
        let (part, k) = (k / BLOCK, k % BLOCK);
        let byte = self.quants(part)[k % 16 / 4][4 * lane + k % 4];
        let quant = byte >> (k / 16 * 4) & 15;
        let min = self.min(part).lane(lane) * Self::MIN_TIMES;
        self.scale(part).lane(lane) * f32::from(quant) - min
    }
}

/// A number for each row of a panel, in the form in which it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Factor<'a> {
    Units(&'a [f16; LANES]),
    /// A unit for each row, multiplied by a number of the row.
    Steps(&'a [f16; LANES], &'a [u8; LANES]),
}

impl Factor<'_> {
    fn lane(self, lane: usize) -> f32 {
        match self {
            Self::Units(units) => units[lane].to_f32(),
            Self::Steps(units, steps) => units[lane].to_f32() * f32::from(steps[lane]),
        }
    }
}

/// 16 of ggml's `Q4_K` blocks, each of 256 columns. Scale and minimum are 6-bit numbers, multiplied
/// by a unit.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Q4KBlock {
    pub(crate) quants: [Quants; SUPER_PARTS],
    /// 6 bits each
    pub(crate) scales: [[u8; LANES]; SUPER_PARTS],
    /// 6 bits each
    pub(crate) mins: [[u8; LANES]; SUPER_PARTS],
    pub(crate) d: [f16; LANES],
    pub(crate) dmin: [f16; LANES],
}

impl Q4Block for Q4KBlock {
    const PARTS: usize = SUPER_PARTS;
    const MIN_TIMES: f32 = 1.0;
    #[inline(always)]
    fn quants(&self, part: usize) -> &Quants {
        &self.quants[part]
    }
    fn quants_mut(&mut self, part: usize) -> &mut Quants {
        &mut self.quants[part]
    }
    #[inline(always)]
    fn scale(&self, part: usize) -> Factor<'_> {
        Factor::Steps(&self.d, &self.scales[part])
    }
    #[inline(always)]
    fn min(&self, part: usize) -> Factor<'_> {
        Factor::Steps(&self.dmin, &self.mins[part])
    }
}

/// 16 of ggml's `Q4_0` blocks, each of 32 columns: a weight is `d * (quant - 8)`.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(32))]
pub(crate) struct Q40Block {
    pub(crate) quants: Quants,
    pub(crate) d: [f16; LANES],
}

impl Q4Block for Q40Block {
    const PARTS: usize = 1;
    const MIN_TIMES: f32 = 8.0;
    #[inline(always)]
    fn quants(&self, _: usize) -> &Quants {
        &self.quants
    }
    fn quants_mut(&mut self, _: usize) -> &mut Quants {
        &mut self.quants
    }
    #[inline(always)]
    fn scale(&self, _: usize) -> Factor<'_> {
        Factor::Units(&self.d)
    }
    #[inline(always)]
    fn min(&self, _: usize) -> Factor<'_> {
        Factor::Units(&self.d)
    }
}

/// 16 of ggml's `Q4_1` blocks, each of 32 columns: a weight is `d * quant + m`.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Q41Block {
    pub(crate) quants: Quants,
    pub(crate) d: [f16; LANES],
    pub(crate) m: [f16; LANES],
}

impl Q4Block for Q41Block {
    const PARTS: usize = 1;
    const MIN_TIMES: f32 = -1.0;
    #[inline(always)]
    fn quants(&self, _: usize) -> &Quants {
        &self.quants
    }
    fn quants_mut(&mut self, _: usize) -> &mut Quants {
        &mut self.quants
    }
    #[inline(always)]
    fn scale(&self, _: usize) -> Factor<'_> {
        Factor::Units(&self.d)
    }
    #[inline(always)]
    fn min(&self, _: usize) -> Factor<'_> {
        Factor::Units(&self.m)
    }
}

/// As [`super::q8_products`]: within a part of 32 columns the sum is exact, in integers; then the scaled
/// sum is added in f32 and the minimum's part is subtracted.
pub(crate) fn q4_products<B: Q4Block>(
    isa: Isa,
    panel: &[B],
    xs: &[Q8Row<'_>],
    mut each: impl FnMut(usize, &Lanes),
) {
    let blocks = panel.len() * B::PARTS;
    for x in xs {
        check_row(x, blocks);
    }
    match isa {
        Isa::Plain => plain(panel, xs, &mut each),
        // SAFETY: an `Isa` other than `Plain` only comes from what was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::x86_q4::q4_products_avx2(panel, xs, &mut each) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { super::x86_q4::q4_products(panel, xs, &mut each) },
    }
}

fn plain<B: Q4Block>(panel: &[B], xs: &[Q8Row<'_>], each: &mut impl FnMut(usize, &Lanes)) {
    for (m, x) in xs.iter().enumerate() {
        let mut sums = [0f32; LANES];
        let parts = panel
            .iter()
            .flat_map(|block| (0..B::PARTS).map(move |part| (block, part)));
        let values = x.values.chunks_exact(BLOCK);
        let rows = values.zip(x.scales.iter().zip(x.sums));
        for ((block, part), (values, (x_scale, x_sums))) in parts.zip(rows) {
            let exact = exact_sums(block.quants(part), values);
            let (scale, min) = (block.scale(part), block.min(part));
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum = (exact[lane] as f32).mul_add(scale.lane(lane) * x_scale, *sum);
                let min = min.lane(lane) * B::MIN_TIMES;
                *sum = (-min).mul_add(x_sums.scaled, *sum);
            }
        }
        each(m, &sums);
    }
}

fn exact_sums(quants: &Quants, values: &[i8]) -> [i32; LANES] {
    let mut sums = [0i32; LANES];
    let (lower, upper) = values.split_at(BLOCK / 2);
    let values = lower.chunks_exact(4).zip(upper.chunks_exact(4));
    for (pair, (lower, upper)) in quants.iter().zip(values) {
        for (sum, quants) in sums.iter_mut().zip(pair.chunks_exact(4)) {
            for (quants, (lower, upper)) in quants.iter().zip(lower.iter().zip(upper)) {
                *sum += i32::from(quants & 15) * i32::from(*lower);
                *sum += i32::from(quants >> 4) * i32::from(*upper);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpu::kernels::tests::QuantisedRow;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn units(rng: &mut StdRng) -> [f16; LANES] {
        std::array::from_fn(|_| f16::from_f32(rng.random_range(-0.1..0.1)))
    }

    fn quants(rng: &mut StdRng) -> Quants {
        let mut quants = [[0; PAIR]; PAIRS];
        rng.fill(quants.as_flattened_mut());
        quants
    }

    fn random_super_block(rng: &mut StdRng) -> Q4KBlock {
        let mut steps =
            || std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(0..64)));
        Q4KBlock {
            scales: steps(),
            mins: steps(),
            quants: std::array::from_fn(|_| quants(rng)),
            d: units(rng),
            dmin: units(rng),
        }
    }

    #[test]
    fn all_versions_of_the_4_bit_products_give_the_same_bits() {
        check(random_super_block);
        check(|rng| Q40Block {
            quants: quants(rng),
            d: units(rng),
        });
        check(|rng| Q41Block {
            quants: quants(rng),
            d: units(rng),
            m: units(rng),
        });
    }

    fn check<B: Q4Block>(random_block: impl Fn(&mut StdRng) -> B) {
        let mut rng = StdRng::seed_from_u64(5);
        let width = B::PARTS * BLOCK;
        for (blocks, rows) in [(1, 1), (5, 8), (4, 3), (3, 6), (2, 7)] {
            let mut panel: Vec<_> = (0..blocks).map(|_| random_block(&mut rng)).collect();
            // These inputs give the largest possible sums.
            for part in 0..B::PARTS {
                *panel[0].quants_mut(part) = [[0xff; PAIR]; PAIRS];
            }
            let rows: Vec<_> = (0..rows)
                .map(|_| {
                    let columns = blocks * width;
                    let mut row: Vec<f32> =
                        (0..columns).map(|_| rng.random_range(-1.0..1.0)).collect();
                    row[..BLOCK].fill(1.0);
                    QuantisedRow::new(&row)
                })
                .collect();
            let xs: Vec<_> = rows.iter().map(QuantisedRow::borrowed).collect();
            let results = |isa, xs: &[Q8Row<'_>]| {
                let mut sums = vec![[0f32; LANES]; xs.len()];
                q4_products(isa, &panel, xs, |m, lanes| sums[m] = *lanes);
                sums
            };
            let wanted = results(Isa::Plain, &xs);
            for isa in Isa::all() {
                assert_eq!(results(isa, &xs), wanted, "{isa:?}");
                let alone = results(isa, &xs[xs.len() - 1..]);
                assert_eq!(alone.last(), wanted.last(), "{isa:?}");
            }
            for (x, wanted) in xs.iter().zip(wanted) {
                for (lane, wanted) in wanted.into_iter().enumerate() {
                    let exact: f64 = (0..x.values.len())
                        .map(|k| {
                            let weight = panel[k / width].weight(lane, k % width);
                            let value = f64::from(x.values[k]) * f64::from(x.scales[k / BLOCK]);
                            f64::from(weight) * value
                        })
                        .sum();
                    assert!((f64::from(wanted) - exact).abs() < 1e-2, "{wanted} {exact}");
                }
            }
        }
    }
}
