//! Norms, activations and rotations, forward and backward, a row at a time.

use crate::ops::{exp, sigmoid};

/// One over the root of a row's mean square (Zhang & Sennrich 2019).
fn inverse_root(row: &[f32], epsilon: f32) -> f32 {
    (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + epsilon)
        .sqrt()
        .recip()
}

/// `out = x / rms(x) · weight` for each row of `weight.len()` numbers.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = inverse_root(x, epsilon);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// Adds the gradient of [`rms_norm`]'s input to `dx`, and that of its weight to `dweight` where it is learnt.
pub(super) fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dout: &[f32],
    dx: &mut [f32],
    mut dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(dout.chunks_exact(width));
    for ((x, dout), dx) in rows.zip(dx.chunks_exact_mut(width)) {
        let scale = inverse_root(x, epsilon);
        let along: f32 = (x.iter().zip(dout).zip(weight))
            .map(|((x, dout), weight)| x * dout * weight)
            .sum();
        let along = along * scale * scale * scale / width as f32;
        for (((dx, x), dout), weight) in dx.iter_mut().zip(x).zip(dout).zip(weight) {
            *dx += dout * weight * scale - x * along;
        }
        if let Some(dweight) = dweight.as_deref_mut() {
            for ((dweight, x), dout) in dweight.iter_mut().zip(x).zip(dout) {
                *dweight += dout * x * scale;
            }
        }
    }
}

/// `silu(gate) · up` (Shazeer 2020).
pub(super) fn swiglu(gate: f32, up: f32) -> f32 {
    gate * sigmoid(gate) * up
}

/// The gradients of [`swiglu`]'s `gate` and `up`.
pub(super) fn swiglu_backward(gate: f32, up: f32, dout: f32) -> (f32, f32) {
    let sigmoid = sigmoid(gate);
    let silu = gate * sigmoid;
    (dout * up * (sigmoid + silu * (1.0 - sigmoid)), dout * silu)
}

/// `exp(x - max)` in place of each number of a row; gives their sum.
pub(super) fn exp_of_differences(row: &mut [f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = exp(*x - max);
        sum += *x;
    }
    sum
}

/// Cosines and sines of the rotary angles at every position (Su et al. 2021).
pub(super) struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotations {
    /// Angles for `positions` positions.
    pub(super) fn new(frequencies: &[f32], positions: usize) -> Self {
        let angles = (0..positions).flat_map(|at| frequencies.iter().map(move |f| at as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self {
            cos,
            sin,
            half: frequencies.len(),
        }
    }

    /// Turns a head to its position.
    pub(super) fn turn(&self, head: &mut [f32], position: usize) {
        self.turn_by(head, position, 1.0);
    }

    /// Turns a head's gradient back.
    pub(super) fn turn_back(&self, head: &mut [f32], position: usize) {
        self.turn_by(head, position, -1.0);
    }

    fn turn_by(&self, head: &mut [f32], position: usize, direction: f32) {
        let angles = position * self.half..(position + 1) * self.half;
        let (first, second) = head.split_at_mut(self.half);
        let pairs = first.iter_mut().zip(second);
        let angles = self.cos[angles.clone()].iter().zip(&self.sin[angles]);
        for ((a, b), (cos, sin)) in pairs.zip(angles) {
            let sin = sin * direction;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
