//! The operations between the matrix products, row by row.

use super::kernels::{LANES, Lanes};

/// Added to a number below 2^22 in magnitude, it leaves the nearest integer (ties to even) in the lowest bits:
/// 1.5 * 2^23. Unlike a conversion it checks no range, so compilers can vectorise it.
pub(super) const TO_INTEGER: f32 = 12_582_912.0;
/// Between these e^x is a normal number or 0.
pub(super) const EXP_RANGE: (f32, f32) = (-88.0, 88.0);
/// The natural logarithm of 2 in two numbers, the first of which has few bits.
pub(super) const LN_2_PARTS: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The polynomial of [`exp`], the highest power first.
pub(super) const EXP_TERMS: [f32; 6] = [
    1.987_569_2e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// e^x for x of at most 88, with a relative error below 2e-6 down to -87, and 0 from -88 on (Cephes' `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(EXP_RANGE.0, EXP_RANGE.1);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, TO_INTEGER);
    let n = shifted - TO_INTEGER;
    let r = LN_2_PARTS.iter().fold(x, |r, part| n.mul_add(-part, r));
    let terms = EXP_TERMS[1..].iter();
    let p = terms.fold(EXP_TERMS[0], |p, term| r.mul_add(p, *term));
    let p = (r * r).mul_add(p, r + 1.0);
    p * power_of_two(shifted)
}

/// 2 to the power of the integer in a number's lowest bits, see [`TO_INTEGER`].
#[inline(always)]
pub(super) fn power_of_two(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

/// The nearest integer of a number below 2^22 in magnitude, ties to even.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    (x + TO_INTEGER)
        .to_bits()
        .wrapping_sub(TO_INTEGER.to_bits()) as i32
}

/// `x / sqrt(mean(x²) + eps) * weight`
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = norm_scale(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// [`rms_norm`] in place.
pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = norm_scale(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// `1 / sqrt(mean(x²) + eps)`
fn norm_scale(x: &[f32], eps: f32) -> f32 {
    let mut sums: Lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = x.mul_add(*x, *sum);
        }
    }
    let squares = sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

/// `silu(gate) * up`, where a row is `gate` followed by `up`.
pub(super) fn swiglu(row: &[f32], out: &mut [f32]) {
    let (gate, up) = row.split_at(out.len());
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Rotates the pairs (i, i + half) of a head by their angles.
pub(super) fn rotate(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(angles.len());
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_in_a_million() {
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            let apart = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(apart.abs() < 2e-6, "e^{x}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
    }
}
