//! Sixteen f32 in registers. Left to itself, the compiler vectorises the loops of attention along the wrong
//! dimension and gathers each number on its own, which takes five times as long.

use half::{bf16, f16};

use super::kernels::{LANES, Lanes};

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

    use super::{LANES, Lanes};

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

    use super::{LANES, Lanes};

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

    use super::{LANES, Lanes};

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
        assert_eq!(stored(Wide::zero()), [0.0; LANES]);
    }
}
