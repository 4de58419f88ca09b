//! Norms, activations and rotations, forward and backward, one row at a time.

use crate::ops::{exp, sigmoid};

/// The number of partial results of a sum or a maximum. It is the number of lanes of a register, so that the
/// compiler can vectorise the loop.
const LANES: usize = 16;

/// Folds a row with partial results, `combine` being associative up to rounding.
fn fold_lanes(row: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, *x);
        }
    }
    let folded = rest.iter().fold(start, |folded, x| combine(folded, *x));
    lanes
        .iter()
        .fold(folded, |folded, lane| combine(folded, *lane))
}

/// The scalar product of two rows.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// One over the root of a row's mean square (Zhang & Sennrich 2019).
fn inverse_root(row: &[f32], epsilon: f32) -> f32 {
    (dot(row, row) / row.len() as f32 + epsilon).sqrt().recip()
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

/// Adds the gradient of [`rms_norm`]'s input to `dx`, and that of its weight to `dweight` if it is trained.
pub(super) fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dout: &[f32],
    dx: &mut [f32],
    mut dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    let mut buffer = Vec::with_capacity(width);
    let rows = x.chunks_exact(width).zip(dout.chunks_exact(width));
    for ((x, dout), dx) in rows.zip(dx.chunks_exact_mut(width)) {
        let scale = inverse_root(x, epsilon);
        let weighted = dout.iter().zip(weight).map(|(dout, weight)| dout * weight);
        buffer.clear();
        buffer.extend(weighted);
        let along = dot(x, &buffer) * scale * scale * scale / width as f32;
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

/// Replaces each number of a row by `exp(x - max)` and returns the sum.
pub(super) fn exp_of_differences(row: &mut [f32]) -> f32 {
    let max = fold_lanes(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    fold_lanes(row, 0.0, |a, b| a + b)
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

    /// Rotates a head to its position.
    pub(super) fn turn(&self, head: &mut [f32], position: usize) {
        self.turn_by(head, position, 1.0);
    }

    /// Rotates a head's gradient back.
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
