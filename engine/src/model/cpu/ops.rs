//! The operations between the matrix products, row by row.

use super::kernels::{LANES, Lanes};

/// e^x for x of at most 88, with a relative error below 2e-6: a polynomial (Cephes' `expf`) that
/// compilers can vectorise.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_2e-4;
    let p = r.mul_add(p, 1.398_2e-3);
    let p = r.mul_add(p, 8.333_452e-3);
    let p = r.mul_add(p, 4.166_579_6e-2);
    let p = r.mul_add(p, 1.666_666_5e-1);
    let p = r.mul_add(p, 0.5);
    let p = (r * r).mul_add(p, r + 1.0);
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
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
        assert_eq!(exp(0.0), 1.0);
    }
}
