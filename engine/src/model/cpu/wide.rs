//! Sixteen f32 in registers. Left to itself, the compiler vectorises the loops of attention along the wrong
//! dimension and gathers each number on its own, which takes five times as long.

use half::{bf16, f16};

use super::kernels::{LANES, Lanes};
use super::ops::{EXP_RANGE, EXP_TERMS, LN_2_PARTS, TO_INTEGER};

/// The largest magnitude of some numbers; those that are none do not count.
#[inline(always)]
pub(super) fn largest_magnitude(numbers: &[f32]) -> f32 {
    let (sixteens, rest) = numbers.as_chunks();
    let largest = sixteens.iter().fold(Wide::zero(), |largest, sixteen| {
        Wide::load(sixteen).abs().max(largest)
    });
    rest.iter()
        .fold(largest.largest(), |most, x| most.max(x.abs()))
}

/// Sixteen numbers. Each lane's result is the same on every processor.
#[derive(Clone, Copy)]
pub(super) struct Wide(imp::Lanes16);

impl Wide {
    /// Zeros.
    #[inline(always)]
    pub(super) fn zero() -> Self {
        Self(imp::load(&[0.0; LANES]))
    }

    #[inline(always)]
    pub(super) fn load(numbers: &Lanes) -> Self {
        Self(imp::load(numbers))
    }

    #[inline(always)]
    pub(super) fn from_f16(numbers: &[f16; LANES]) -> Self {
        Self(imp::from_f16(numbers))
    }

    #[inline(always)]
    pub(super) fn from_bf16(numbers: &[bf16; LANES]) -> Self {
        Self(imp::from_bf16(numbers))
    }

    #[inline(always)]
    pub(super) fn from_i8(numbers: &[i8; LANES]) -> Self {
        Self(imp::from_i8(numbers))
    }

    #[inline(always)]
    pub(super) fn splat(number: f32) -> Self {
        Self(imp::splat(number))
    }

    /// The larger of each two numbers, `other`'s where this one is none.
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        Self(imp::max(self.0, other.0))
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        Self(imp::max(self.0, imp::mul(self.0, imp::splat(-1.0))))
    }

    /// The largest of the lanes, which must all be numbers.
    #[inline(always)]
    pub(super) fn largest(self) -> f32 {
        imp::largest(self.0)
    }

    #[inline(always)]
    pub(super) fn add(self, other: Self) -> Self {
        Self(imp::add(self.0, other.0))
    }

    /// e^x, the same bits as [`super::ops::exp`].
    #[inline(always)]
    pub(super) fn exp(self) -> Self {
        let constant = imp::splat;
        let x = imp::max(self.0, constant(EXP_RANGE.0));
        let x = imp::min(x, constant(EXP_RANGE.1));
        let log2_e = constant(std::f32::consts::LOG2_E);
        let shifted = imp::mul_add(x, log2_e, constant(TO_INTEGER));
        let n = imp::add(shifted, constant(-TO_INTEGER));
        let r = LN_2_PARTS
            .iter()
            .fold(x, |r, part| imp::mul_add(n, constant(-part), r));
        let first = constant(EXP_TERMS[0]);
        let p = EXP_TERMS[1..]
            .iter()
            .fold(first, |p, term| imp::mul_add(r, p, constant(*term)));
        let p = imp::mul_add(imp::mul(r, r), p, imp::add(r, constant(1.0)));
        Self(imp::mul(p, imp::power_of_two(shifted)))
    }

    /// Writes the nearest integers, ties to even, of numbers up to 127 in magnitude, and returns their sum.
    #[inline(always)]
    pub(super) fn store_levels(self, to: &mut [i8; LANES]) -> i32 {
        imp::store_levels(imp::add(self.0, imp::splat(TO_INTEGER)), to)
    }

    #[inline(always)]
    pub(super) fn mul(self, factors: Self) -> Self {
        Self(imp::mul(self.0, factors.0))
    }

    /// `self * factor + add`, rounded once.
    #[inline(always)]
    pub(super) fn mul_add(self, factor: f32, add: Self) -> Self {
        self.mul_add_each(Self(imp::splat(factor)), add)
    }

    /// `self * factors + add`, rounded once.
    #[inline(always)]
    pub(super) fn mul_add_each(self, factors: Self, add: Self) -> Self {
        Self(imp::mul_add(self.0, factors.0, add.0))
    }

    #[inline(always)]
    pub(super) fn store(self, to: &mut Lanes) {
        imp::store(self.0, to);
    }
}

// SAFETY of all that follows: the instructions are compiled only where the processor that is compiled for has them,
// and arrays of sixteen are as long as what is read and written.

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
mod imp {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{LANES, Lanes, TO_INTEGER};

    pub(super) type Lanes16 = __m512;

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Lanes16 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    pub(super) fn load(x: &Lanes) -> Lanes16 {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn from_f16(x: &[f16; LANES]) -> Lanes16 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    pub(super) fn from_bf16(x: &[bf16; LANES]) -> Lanes16 {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    pub(super) fn from_i8(x: &[i8; LANES]) -> Lanes16 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    pub(super) fn max(a: Lanes16, b: Lanes16) -> Lanes16 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    pub(super) fn min(a: Lanes16, b: Lanes16) -> Lanes16 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    pub(super) fn largest(x: Lanes16) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    pub(super) fn power_of_two(shifted: Lanes16) -> Lanes16 {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, one))
        }
    }

    #[inline(always)]
    pub(super) fn store_levels(shifted: Lanes16, to: &mut [i8; LANES]) -> i32 {
        unsafe {
            let zero = _mm512_castps_si512(_mm512_set1_ps(TO_INTEGER));
            let levels = _mm512_sub_epi32(_mm512_castps_si512(shifted), zero);
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(levels));
            _mm512_reduce_add_epi32(levels)
        }
    }

    #[inline(always)]
    pub(super) fn add(a: Lanes16, b: Lanes16) -> Lanes16 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    pub(super) fn mul(a: Lanes16, b: Lanes16) -> Lanes16 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    pub(super) fn mul_add(a: Lanes16, b: Lanes16, c: Lanes16) -> Lanes16 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    pub(super) fn store(x: Lanes16, to: &mut Lanes) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }
}

#[cfg(all(
    target_arch = "x86_64",
    target_feature = "avx2",
    target_feature = "fma",
    target_feature = "f16c",
    not(target_feature = "avx512f")
))]
mod imp {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{LANES, Lanes, TO_INTEGER};

    pub(super) type Lanes16 = [__m256; 2];

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Lanes16 {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    pub(super) fn load(x: &Lanes) -> Lanes16 {
        [0, 8].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) })
    }

    #[inline(always)]
    pub(super) fn from_f16(x: &[f16; LANES]) -> Lanes16 {
        [0, 8].map(|at| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(at).cast())) })
    }

    #[inline(always)]
    pub(super) fn from_bf16(x: &[bf16; LANES]) -> Lanes16 {
        [0, 8].map(|at| unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(at).cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    pub(super) fn from_i8(x: &[i8; LANES]) -> Lanes16 {
        [0, 8].map(|at| unsafe {
            let bytes = _mm_loadl_epi64(x.as_ptr().add(at).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        })
    }

    #[inline(always)]
    pub(super) fn max(a: Lanes16, b: Lanes16) -> Lanes16 {
        [0, 1].map(|half| unsafe { _mm256_max_ps(a[half], b[half]) })
    }

    #[inline(always)]
    pub(super) fn min(a: Lanes16, b: Lanes16) -> Lanes16 {
        [0, 1].map(|half| unsafe { _mm256_min_ps(a[half], b[half]) })
    }

    #[inline(always)]
    pub(super) fn largest(x: Lanes16) -> f32 {
        let mut larger = [0f32; LANES / 2];
        unsafe { _mm256_storeu_ps(larger.as_mut_ptr(), _mm256_max_ps(x[0], x[1])) };
        larger.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    pub(super) fn power_of_two(shifted: Lanes16) -> Lanes16 {
        shifted.map(|shifted| unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, one))
        })
    }

    #[inline(always)]
    pub(super) fn store_levels(shifted: Lanes16, to: &mut [i8; LANES]) -> i32 {
        let mut levels = [0i32; LANES];
        unsafe {
            let zero = _mm256_castps_si256(_mm256_set1_ps(TO_INTEGER));
            for (half, to) in shifted.into_iter().zip(levels.chunks_exact_mut(LANES / 2)) {
                let levels = _mm256_sub_epi32(_mm256_castps_si256(half), zero);
                _mm256_storeu_si256(to.as_mut_ptr().cast(), levels);
            }
        }
        *to = levels.map(|level| level as i8);
        levels.iter().sum()
    }

    #[inline(always)]
    pub(super) fn add(a: Lanes16, b: Lanes16) -> Lanes16 {
        [0, 1].map(|half| unsafe { _mm256_add_ps(a[half], b[half]) })
    }

    #[inline(always)]
    pub(super) fn mul(a: Lanes16, b: Lanes16) -> Lanes16 {
        [0, 1].map(|half| unsafe { _mm256_mul_ps(a[half], b[half]) })
    }

    #[inline(always)]
    pub(super) fn mul_add(a: Lanes16, b: Lanes16, c: Lanes16) -> Lanes16 {
        [0, 1].map(|half| unsafe { _mm256_fmadd_ps(a[half], b[half], c[half]) })
    }

    #[inline(always)]
    pub(super) fn store(x: Lanes16, to: &mut Lanes) {
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }
}

#[cfg(not(all(
    target_arch = "x86_64",
    target_feature = "avx2",
    target_feature = "fma",
    target_feature = "f16c"
)))]
mod imp {
    use half::{bf16, f16};

    use super::{LANES, Lanes, TO_INTEGER};

    pub(super) type Lanes16 = Lanes;

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Lanes16 {
        [x; LANES]
    }

    #[inline(always)]
    pub(super) fn load(x: &Lanes) -> Lanes16 {
        *x
    }

    #[inline(always)]
    pub(super) fn from_f16(x: &[f16; LANES]) -> Lanes16 {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    pub(super) fn from_bf16(x: &[bf16; LANES]) -> Lanes16 {
        x.map(bf16::to_f32)
    }

    #[inline(always)]
    pub(super) fn from_i8(x: &[i8; LANES]) -> Lanes16 {
        x.map(f32::from)
    }

    /// As the instructions: `b` where one of the two is no number.
    #[inline(always)]
    pub(super) fn max(a: Lanes16, b: Lanes16) -> Lanes16 {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    /// See [`max`].
    #[inline(always)]
    pub(super) fn min(a: Lanes16, b: Lanes16) -> Lanes16 {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    pub(super) fn largest(x: Lanes16) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    pub(super) fn power_of_two(shifted: Lanes16) -> Lanes16 {
        shifted.map(crate::model::cpu::ops::power_of_two)
    }

    #[inline(always)]
    pub(super) fn store_levels(shifted: Lanes16, to: &mut [i8; LANES]) -> i32 {
        let levels = shifted.map(|x| x.to_bits().wrapping_sub(TO_INTEGER.to_bits()) as i32);
        *to = levels.map(|level| level as i8);
        levels.iter().sum()
    }

    #[inline(always)]
    pub(super) fn add(a: Lanes16, b: Lanes16) -> Lanes16 {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    pub(super) fn mul(a: Lanes16, b: Lanes16) -> Lanes16 {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    pub(super) fn mul_add(a: Lanes16, b: Lanes16, c: Lanes16) -> Lanes16 {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    pub(super) fn store(x: Lanes16, to: &mut Lanes) {
        *to = x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cpu::ops::exp;

    #[test]
    fn each_lane_is_what_plain_arithmetic_gives() {
        let numbers: Lanes = std::array::from_fn(|i| (i as f32 - 7.3) * 1.7);
        let halves = numbers.map(f16::from_f32);
        let brains = numbers.map(bf16::from_f32);
        let bytes: [i8; LANES] = std::array::from_fn(|i| (i as i32 * 17 - 128) as i8);
        let stored = |wide: Wide| {
            let mut to = [0.0; LANES];
            wide.store(&mut to);
            to
        };
        assert_eq!(stored(Wide::load(&numbers)), numbers);
        assert_eq!(stored(Wide::from_f16(&halves)), halves.map(f16::to_f32));
        assert_eq!(stored(Wide::from_bf16(&brains)), brains.map(bf16::to_f32));
        assert_eq!(stored(Wide::from_i8(&bytes)), bytes.map(f32::from));
        let sums = Wide::from_i8(&bytes).mul_add(0.3, Wide::load(&numbers));
        let wanted: Lanes = std::array::from_fn(|i| f32::from(bytes[i]).mul_add(0.3, numbers[i]));
        assert_eq!(stored(sums), wanted);
        let products = Wide::load(&numbers).mul(Wide::from_i8(&bytes));
        let wanted: Lanes = std::array::from_fn(|i| numbers[i] * f32::from(bytes[i]));
        assert_eq!(stored(products), wanted);
        assert_eq!(stored(Wide::zero()), [0.0; LANES]);
        assert_eq!(stored(Wide::splat(3.5)), [3.5; LANES]);
        let sums = Wide::load(&numbers).add(Wide::from_i8(&bytes));
        let wanted: Lanes = std::array::from_fn(|i| numbers[i] + f32::from(bytes[i]));
        assert_eq!(stored(sums), wanted);
        assert_eq!(stored(Wide::load(&numbers).abs()), numbers.map(f32::abs));
        assert_eq!(Wide::load(&numbers).largest(), numbers[LANES - 1]);
    }

    #[test]
    fn what_is_no_number_is_never_the_larger() {
        let numbers: Lanes = std::array::from_fn(|i| if i == 3 { f32::NAN } else { -(i as f32) });
        let larger = Wide::load(&numbers).max(Wide::splat(-2.0));
        assert_eq!(larger.largest(), 0.0);
        assert_eq!(
            largest_magnitude(&[&numbers[..], &[-99.5, f32::NAN]].concat()),
            99.5
        );
        assert_eq!(largest_magnitude(&[]), 0.0);
    }

    #[test]
    fn exp_has_the_bits_of_the_scalar_one() {
        let all: Vec<f32> = (-9000..9000).map(|i| i as f32 / 100.0).collect();
        let edges = [f32::NEG_INFINITY, -0.0, -87.7, -87.6, f32::MIN, f32::MAX];
        let padded = [&all[..], &edges, &[1.0; LANES]].concat();
        for numbers in padded.as_chunks().0 {
            let mut to = [0.0; LANES];
            Wide::load(numbers).exp().store(&mut to);
            assert_eq!(to, numbers.map(exp));
        }
    }

    #[test]
    fn levels_are_the_nearest_integers_and_their_sum_is_returned() {
        let numbers: Lanes = std::array::from_fn(|i| (i as f32 - 8.0) * 15.5);
        let mut levels = [0; LANES];
        let sum = Wide::load(&numbers).store_levels(&mut levels);
        assert_eq!(levels, numbers.map(|x| x.round_ties_even() as i8));
        assert_eq!(sum, levels.map(i32::from).iter().sum::<i32>());
    }
}
