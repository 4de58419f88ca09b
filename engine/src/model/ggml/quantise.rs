//! Numbers become blocks of 4 bits, for models that are stored more finely than they are served.
//!
//! `Q4_0` and `Q4_1` are ggml's `quantize_row_q4_0` and `quantize_row_q4_1`, bit for bit. ggml finds the scales
//! and minima of `Q4_K` by a search of its own; here they are fitted by least squares.

use half::f16;

use super::scale_and_min;

/// How often quants and fit follow each other. The error falls little after the third time.
const ROUNDS: usize = 5;
/// The largest quant.
const MOST: f32 = 15.0;
/// The largest scale or minimum of a part, in units of its block.
const MOST_STEPS: f32 = 63.0;

/// Writes 32 numbers as a `Q4_0` block. The number of largest magnitude is stored exactly, but for the rounding
/// of the scale, and takes the one level that its sign has more of.
pub(in crate::model) fn quantise_q4_0(numbers: &[f32], block: &mut [u8]) {
    let larger = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
    let d = numbers.iter().copied().fold(0.0, larger) / -8.0;
    let levels = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    // A cast to an integer cuts off, so half a level is added.
    set_halves(&mut block[2..], numbers, |x| (x * levels + 8.5) as u8);
}

/// Writes 32 numbers as a `Q4_1` block. Its levels go from the least number to the largest.
pub(in crate::model) fn quantise_q4_1(numbers: &[f32], block: &mut [u8]) {
    let (min, max) = range(numbers);
    let d = (max - min) / MOST;
    let levels = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(min).to_le_bytes());
    set_halves(&mut block[4..], numbers, |x| {
        ((x - min) * levels + 0.5) as u8
    });
}

/// Writes 256 numbers as a `Q4_K` block.
pub(in crate::model) fn quantise_q4_k(numbers: &[f32], block: &mut [u8]) {
    let parts: [Fit; 8] = std::array::from_fn(|part| Fit::of(&numbers[part * 32..][..32]));
    let unit_of = |get: fn(&Fit) -> f32| {
        let largest = parts.iter().map(get).fold(0.0, f32::max);
        f16::from_f32(largest / MOST_STEPS)
    };
    let (d, min_unit) = (unit_of(|fit| fit.scale), unit_of(|fit| fit.min));
    block[..2].copy_from_slice(&d.to_le_bytes());
    block[2..4].copy_from_slice(&min_unit.to_le_bytes());
    let (d, min_unit) = (d.to_f32(), min_unit.to_f32());

    let in_units = |value: f32, unit: f32| (value * inverse(unit)).round().min(MOST_STEPS) as u8;
    let mut steps = [0; 12];
    for (j, fit) in parts.iter().enumerate() {
        let (scale, min) = (in_units(fit.scale, d), in_units(fit.min, min_unit));
        set_scale_and_min(&mut steps, j, (scale, min));
    }
    block[4..16].copy_from_slice(&steps);

    block[16..].fill(0);
    for (j, numbers) in numbers.chunks_exact(32).enumerate() {
        let (scale, min) = scale_and_min(&steps, j);
        let rounded = Fit {
            scale: d * f32::from(scale),
            min: min_unit * f32::from(min),
        };
        // 32 bytes hold two parts, the first one in the lower halves.
        let bytes = &mut block[16 + j / 2 * 32..][..32];
        for (byte, x) in bytes.iter_mut().zip(numbers) {
            *byte |= (rounded.quant(*x) as u8) << (j % 2 * 4);
        }
    }
}

/// How the quants of a part become numbers: `scale * quant - min`, neither below zero.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    min: f32,
}

impl Fit {
    /// Fits scale and minimum to the quants and the quants to these, by turns, from levels that divide the whole
    /// range on; the fit with the least squared error.
    fn of(numbers: &[f32]) -> Self {
        let (least, most) = range(numbers);
        let least = least.min(0.0);
        let mut fit = Self {
            scale: (most - least) / MOST,
            min: -least,
        };
        let mut best = (fit.error(numbers), fit);
        for _ in 0..ROUNDS {
            let Some(next) = fit.fitted_again(numbers) else {
                break;
            };
            fit = next;
            let error = fit.error(numbers);
            if error < best.0 {
                best = (error, fit);
            }
        }
        best.1
    }

    /// The line of least squares through the quants that this fit gives; through zero where the minimum would
    /// be below it. `None` where all quants are the same.
    fn fitted_again(self, numbers: &[f32]) -> Option<Self> {
        let count = numbers.len() as f32;
        let (mut q1, mut q2, mut x1, mut qx) = (0.0, 0.0, 0.0, 0.0);
        for x in numbers {
            let q = self.quant(*x);
            q1 += q;
            q2 += q * q;
            x1 += x;
            qx += q * x;
        }
        let spread = count * q2 - q1 * q1;
        if spread <= 0.0 {
            return None;
        }
        let scale = (count * qx - q1 * x1) / spread;
        let min = (scale * q1 - x1) / count;
        let fit = if min >= 0.0 {
            Self { scale, min }
        } else {
            Self {
                scale: qx / q2,
                min: 0.0,
            }
        };
        (fit.scale > 0.0).then_some(fit)
    }

    /// The nearest quant.
    fn quant(self, x: f32) -> f32 {
        ((x + self.min) * inverse(self.scale))
            .round()
            .clamp(0.0, MOST)
    }

    fn error(self, numbers: &[f32]) -> f32 {
        let off = |x: &f32| self.scale * self.quant(*x) - self.min - x;
        numbers.iter().map(|x| off(x) * off(x)).sum()
    }
}

/// The least and the largest number.
fn range(numbers: &[f32]) -> (f32, f32) {
    let nothing = (f32::INFINITY, f32::NEG_INFINITY);
    let numbers = numbers.iter();
    numbers.fold(nothing, |(least, most), x| (least.min(*x), most.max(*x)))
}

/// `1 / x`, and 0 where every number is a multiple of zero.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Sets 4-bit quants, the first half of the numbers in the lower halves of the bytes.
fn set_halves(bytes: &mut [u8], numbers: &[f32], quant: impl Fn(f32) -> u8) {
    let (low, high) = numbers.split_at(bytes.len());
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = quant(*low).min(15) | quant(*high).min(15) << 4;
    }
}

/// Writes what [`scale_and_min`] reads; `steps` has zeros there.
fn set_scale_and_min(steps: &mut [u8; 12], j: usize, (scale, min): (u8, u8)) {
    if j < 4 {
        steps[j] |= scale;
        steps[j + 4] |= min;
    } else {
        steps[j + 4] |= scale & 15 | min << 4;
        steps[j - 4] |= scale >> 4 << 6;
        steps[j] |= min >> 4 << 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ggml::GgmlType;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// Numbers as weights are: near zero, a few far, each row with a mean of its own.
    fn weights(rng: &mut StdRng) -> Vec<f32> {
        let mean = rng.random_range(-0.5..0.5);
        let sum = |rng: &mut StdRng| (0..4).map(|_| rng.random_range(-1.0..1.0f32)).sum::<f32>();
        (0..256).map(|_| mean + sum(rng)).collect()
    }

    fn with(quantise: fn(&[f32], &mut [u8]), ggml: GgmlType, numbers: &[f32]) -> Vec<u8> {
        let mut blocks = vec![0xee; ggml.bytes(numbers.len())];
        let each = numbers.chunks_exact(ggml.block_len());
        for (block, numbers) in blocks.chunks_exact_mut(ggml.block_bytes()).zip(each) {
            quantise(numbers, block);
        }
        blocks
    }

    fn with_candle(ggml: GgmlDType, numbers: &[f32]) -> Vec<u8> {
        let row = Tensor::new(numbers, &Device::Cpu).unwrap();
        QTensor::quantize(&row, ggml)
            .unwrap()
            .data()
            .unwrap()
            .into_owned()
    }

    #[test]
    fn blocks_of_32_are_the_ones_that_ggml_makes() {
        let mut rng = StdRng::seed_from_u64(8);
        let mut rows: Vec<_> = (0..40).map(|_| weights(&mut rng)).collect();
        rows.extend([vec![0.0; 256], vec![-0.75; 256], vec![0.75; 256]]);
        for row in rows {
            let (own, theirs) = (
                with(quantise_q4_0, GgmlType::Q4_0, &row),
                with_candle(GgmlDType::Q4_0, &row),
            );
            assert_eq!(own, theirs, "Q4_0 of {row:?}");
            let (own, theirs) = (
                with(quantise_q4_1, GgmlType::Q4_1, &row),
                with_candle(GgmlDType::Q4_1, &row),
            );
            assert_eq!(own, theirs, "Q4_1 of {row:?}");
        }
    }

    fn error(blocks: &[u8], numbers: &[f32]) -> f64 {
        let mut read = vec![0.0; numbers.len()];
        GgmlType::Q4_K.dequantise(blocks, &mut read);
        let off = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        read.iter().zip(numbers).map(off).sum()
    }

    #[test]
    fn blocks_of_256_are_nearer_than_the_ones_that_candle_makes() {
        let mut rng = StdRng::seed_from_u64(9);
        let (mut own, mut theirs) = (0.0, 0.0);
        for _ in 0..400 {
            let row = weights(&mut rng);
            own += error(&with(quantise_q4_k, GgmlType::Q4_K, &row), &row);
            theirs += error(&with_candle(GgmlDType::Q4K, &row), &row);
        }
        assert!(own < 0.98 * theirs, "{own} beside {theirs}");
    }

    #[test]
    fn equal_numbers_stay_what_they_are() {
        for number in [0.0, 0.75, -0.75] {
            let row = vec![number; 256];
            let off = error(&with(quantise_q4_k, GgmlType::Q4_K, &row), &row);
            assert!(off < 256.0 * 1e-6, "{number}: {off}");
        }
    }

    #[test]
    fn scales_and_minima_are_read_as_they_were_written() {
        let mut rng = StdRng::seed_from_u64(10);
        let pairs: [(u8, u8); 8] =
            std::array::from_fn(|_| (rng.random_range(0..64), rng.random_range(0..64)));
        let mut steps = [0; 12];
        for (j, pair) in pairs.into_iter().enumerate() {
            set_scale_and_min(&mut steps, j, pair);
        }
        assert_eq!(std::array::from_fn(|j| scale_and_min(&steps, j)), pairs);
    }
}
