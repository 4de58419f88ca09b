//! Products with 4-bit weights: what they are made of, which version runs, and the plain one.

use bytemuck::Zeroable;
use half::f16;

use super::{BLOCK, Isa, LANES, Lanes, quantise};

/// Columns that share `d` and `dmin`.
pub(crate) const SUPER_BLOCK: usize = 256;
/// Parts of a super-block that have a scale and a minimum each.
pub(crate) const SUB_BLOCKS: usize = SUPER_BLOCK / BLOCK;
/// Bytes of a sub-block of 16 rows that the kernels take at a time: two groups of four columns.
const PAIR: usize = 4 * LANES;
const PAIRS: usize = BLOCK / 8;

/// A super-block of a panel of 4-bit weights (16 of ggml's `Q4_K`): a weight is
/// `d * scale * quant - dmin * min`.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Q4Block {
    /// Byte `4 * row + i` of pair `p` holds column `4p + i` of its sub-block in the lower half, and
    /// column `16 + 4p + i` in the upper one.
    pub(super) quants: [[[u8; PAIR]; PAIRS]; SUB_BLOCKS],
    /// 6 bits each
    pub(crate) scales: [[u8; LANES]; SUB_BLOCKS],
    /// 6 bits each
    pub(crate) mins: [[u8; LANES]; SUB_BLOCKS],
    pub(crate) d: [f16; LANES],
    pub(crate) dmin: [f16; LANES],
}

impl Q4Block {
    /// Sets the 4 bits of column `k` of a row, which are still zero.
    pub(crate) fn set_quant(&mut self, lane: usize, k: usize, quant: u8) {
        let (pair, byte, shift) = Self::place(lane, k);
        self.quants[k / BLOCK][pair][byte] |= quant << shift;
    }

    /// The weight in column `k` of a row.
    pub(crate) fn weight(&self, lane: usize, k: usize) -> f32 {
        let (pair, byte, shift) = Self::place(lane, k);
        let quant = self.quants[k / BLOCK][pair][byte] >> shift & 15;
        let (scale, min) = self.scale_and_min(k / BLOCK, lane);
        scale * f32::from(quant) - min
    }

    fn place(lane: usize, k: usize) -> (usize, usize, usize) {
        let k = k % BLOCK;
        (k % 16 / 4, 4 * lane + k % 4, k / 16 * 4)
    }

    fn scale_and_min(&self, sub_block: usize, lane: usize) -> (f32, f32) {
        let scale = f32::from(self.scales[sub_block][lane]);
        let min = f32::from(self.mins[sub_block][lane]);
        (
            self.d[lane].to_f32() * scale,
            self.dmin[lane].to_f32() * min,
        )
    }
}

/// A row of activations in 8 bits, for 4-bit weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Q4Row<'a> {
    /// 32 a block
    pub(crate) values: &'a [i8],
    /// One a block
    pub(crate) scales: &'a [f32],
    /// The sum of each block's values times its scale: what a minimum is multiplied by
    pub(crate) sums: &'a [f32],
}

/// [`quantise`] to signed values (the bytes of an `i8`), with the sums of [`Q4Row`].
pub(crate) fn quantise_signed(
    row: &[f32],
    values: &mut [u8],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    quantise(row, values, scales);
    for ((values, scale), sum) in values.chunks_exact_mut(BLOCK).zip(scales).zip(sums) {
        let mut exact = 0;
        for value in values {
            exact += i32::from(*value) - 128;
            *value ^= 0x80;
        }
        *sum = exact as f32 * *scale;
    }
}

/// As [`super::q8_products`]: within a sub-block of 32 columns the sum is exact, in integers; then its
/// scaled sum is added in f32 and its minimum's share taken off.
pub(crate) fn q4_products(
    isa: Isa,
    panel: &[Q4Block],
    xs: &[Q4Row<'_>],
    mut each: impl FnMut(usize, &Lanes),
) {
    let blocks = panel.len() * SUB_BLOCKS;
    for x in xs {
        assert!(x.values.len() == blocks * BLOCK);
        assert!(x.scales.len() == blocks && x.sums.len() == blocks);
    }
    match isa {
        Isa::Plain => plain(panel, xs, &mut each),
        // SAFETY: an `Isa` other than `Plain` only comes from what was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::x86::q4_products_avx2(panel, xs, &mut each) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { super::x86::q4_products(panel, xs, &mut each) },
    }
}

fn plain(panel: &[Q4Block], xs: &[Q4Row<'_>], each: &mut impl FnMut(usize, &Lanes)) {
    for (m, x) in xs.iter().enumerate() {
        let mut sums = [0f32; LANES];
        let sub_blocks = panel
            .iter()
            .flat_map(|block| (0..SUB_BLOCKS).map(move |j| (block, j)));
        let values = x.values.chunks_exact(BLOCK);
        let rows = values.zip(x.scales.iter().zip(x.sums));
        for ((block, j), (values, (x_scale, x_sum))) in sub_blocks.zip(rows) {
            let exact = exact_sums(&block.quants[j], values);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let (scale, min) = block.scale_and_min(j, lane);
                *sum = (exact[lane] as f32).mul_add(scale * x_scale, *sum);
                *sum = (-min).mul_add(*x_sum, *sum);
            }
        }
        each(m, &sums);
    }
}

fn exact_sums(quants: &[[u8; PAIR]; PAIRS], values: &[i8]) -> [i32; LANES] {
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
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn random_block(rng: &mut StdRng) -> Q4Block {
        let mut block = Q4Block::zeroed();
        rng.fill(block.quants.as_flattened_mut().as_flattened_mut());
        for lanes in [&mut block.scales, &mut block.mins] {
            lanes
                .as_flattened_mut()
                .fill_with(|| rng.random_range(0..64));
        }
        for lanes in [&mut block.d, &mut block.dmin] {
            lanes.fill_with(|| f16::from_f32(rng.random_range(-0.1..0.1)));
        }
        block
    }

    #[test]
    fn all_versions_of_the_4_bit_products_give_the_same_bits() {
        let mut rng = StdRng::seed_from_u64(5);
        for (blocks, rows) in [(1, 1), (5, 8), (4, 3), (3, 6), (2, 7)] {
            let mut panel: Vec<_> = (0..blocks).map(|_| random_block(&mut rng)).collect();
            // The largest sums that there can be.
            panel[0].quants = [[[0xff; PAIR]; PAIRS]; SUB_BLOCKS];
            let rows: Vec<_> = (0..rows)
                .map(|_| {
                    let columns = blocks * SUPER_BLOCK;
                    let mut row: Vec<f32> =
                        (0..columns).map(|_| rng.random_range(-1.0..1.0)).collect();
                    row[..BLOCK].fill(1.0);
                    let mut values = vec![0; columns];
                    let (mut scales, mut sums) =
                        (vec![0.0; columns / BLOCK], vec![0.0; columns / BLOCK]);
                    quantise_signed(&row, &mut values, &mut scales, &mut sums);
                    (values, scales, sums)
                })
                .collect();
            let xs: Vec<_> = rows
                .iter()
                .map(|(values, scales, sums)| Q4Row {
                    values: bytemuck::cast_slice(values),
                    scales,
                    sums,
                })
                .collect();
            let results = |isa, xs: &[Q4Row<'_>]| {
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
                            let weight = panel[k / SUPER_BLOCK].weight(lane, k % SUPER_BLOCK);
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
