//! The numbers that keys and values are kept in: f32, f16, or 8 bits with scales.

use bytemuck::Pod;
use half::{bf16, f16};

use super::kernels::LANES;
use super::ops::nearest;
use super::wide::{Wide, largest_magnitude};

/// Numbers of a head that share a scale.
pub(super) const SCALED: usize = 32;

/// A number of a key or a value as it is kept, divided by its scale if the type has scales.
pub(super) trait KvNumber: Pod + Send + Sync {
    /// Whether each [`SCALED`] numbers share a scale.
    const HAS_SCALES: bool;
    /// The nearest number of this type.
    fn narrow(value: f32) -> Self;
    /// Exactly the same number.
    fn widen(self) -> f32;
    /// [`KvNumber::widen`] of sixteen.
    fn widen_all(numbers: &[Self; LANES]) -> Wide;
}

impl KvNumber for f32 {
    const HAS_SCALES: bool = false;

    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widen_all(numbers: &[Self; LANES]) -> Wide {
        Wide::load(numbers)
    }
}

impl KvNumber for f16 {
    const HAS_SCALES: bool = false;

    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn widen_all(numbers: &[Self; LANES]) -> Wide {
        Wide::from_f16(numbers)
    }
}

impl KvNumber for i8 {
    const HAS_SCALES: bool = true;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        // The scale was rounded up, so the number is at most 127.
        nearest(value) as i8
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    fn widen_all(numbers: &[Self; LANES]) -> Wide {
        Wide::from_i8(numbers)
    }
}

/// The least scale with which all numbers fit into 8 bits, rounded up, and its inverse. Both are 0 if all
/// numbers are 0.
pub(super) fn scale_of(numbers: &[f32]) -> (bf16, f32) {
    let largest = largest_magnitude(numbers);
    // An infinite number gets a scale that is infinite too, and not one that the carry made NaN of.
    let rounded_up = (largest / 127.0).to_bits().saturating_add(0xffff) >> 16;
    let scale = bf16::from_bits(rounded_up.min(0x7f80) as u16);
    let inverse = scale.to_f32().recip();
    (scale, if inverse.is_finite() { inverse } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_cut_off_by_its_scale_and_none_is_off_by_more_than_half_a_step() {
        for largest in [1e-30f32, 1e-6, 0.7, 1.0, 126.9, 127.0, 3.3e4, 1e30] {
            let numbers: Vec<f32> = (0..SCALED)
                .map(|i| largest * (i as f32 / 15.5 - 1.0))
                .collect();
            let (scale, inverse) = scale_of(&numbers);
            let step = scale.to_f32();
            assert!(step * 127.0 >= largest, "{largest}");
            for x in numbers {
                let kept = i8::narrow(x * inverse).widen() * step;
                assert!((kept - x).abs() <= 0.501 * step, "{x} became {kept}");
            }
        }
        assert_eq!(scale_of(&[0.0; 4]), (bf16::ZERO, 0.0));
        assert_eq!(scale_of(&[f32::INFINITY, 1.0]).1, 0.0);
    }
}
