//! A random rotation that takes n·log n additions: random signs, then a fast Walsh–Hadamard transform,
//! a few times over.
//!
//! The transform needs a power of two. Any other number of dimensions is covered by two blocks that
//! overlap: the largest power of two from the front, and the same from the back.

// With one round, a vector with a single component stays recognisable. After three, its energy is
// spread over all dimensions, also over those that only one of two overlapping blocks covers.
const ROUNDS: usize = 3;
// Vectors with fewer dimensions are padded: the error of a sketch is random only where it has enough bits.
const LEAST_WIDTH: usize = 64;

/// A rotation that depends on nothing but the number of dimensions.
#[derive(Debug)]
pub(crate) struct Rotation {
    // (ROUNDS, width): each is 1 or -1.
    signs: Vec<f32>,
    width: usize,
}

impl Rotation {
    pub(crate) fn new(dimension: usize) -> Self {
        let width = dimension.max(LEAST_WIDTH);
        let sign = |n: usize| if mix(n as u64) & 1 == 0 { 1.0 } else { -1.0 };
        Self {
            signs: (0..ROUNDS * width).map(sign).collect(),
            width,
        }
    }

    /// Dimensions of a rotated vector: those of the vector, but at least 64.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Rotates a vector of at most `width` dimensions. Norms and products stay as they are.
    pub(crate) fn rotate(&self, vector: &[f32]) -> Vec<f32> {
        let mut rotated = vec![0.0; self.width];
        rotated[..vector.len()].copy_from_slice(vector);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has been asked.
            unsafe { self.turn_avx2(&mut rotated) };
            return rotated;
        }
        self.turn(&mut rotated);
        rotated
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn turn_avx2(&self, rotated: &mut [f32]) {
        self.turn(rotated);
    }

    #[inline(always)]
    fn turn(&self, rotated: &mut [f32]) {
        let block = 1 << self.width.ilog2();
        let mut spare = vec![0.0; block];
        for signs in self.signs.chunks_exact(self.width) {
            for (x, sign) in rotated.iter_mut().zip(signs) {
                *x *= sign;
            }
            hadamard(&mut rotated[..block], &mut spare);
            if block < self.width {
                hadamard(&mut rotated[self.width - block..], &mut spare);
            }
        }
    }
}

/// A Walsh–Hadamard transform of a block, whose length is a power of two of at least 8, scaled so that
/// norms stay. Its output is in another order than usual, which no rotation minds.
///
/// The first three of its steps combine the two halves and interleave the results (Pease, 1968), so that
/// the others combine runs of at least eight numbers: vector units do both well.
#[inline(always)]
fn hadamard(block: &mut [f32], spare: &mut [f32]) {
    let length = block.len();
    let scale = 1.0 / (length as f32).sqrt();
    for _ in 0..3 {
        let (front, back) = block.split_at(length / 2);
        let (pairs, _) = spare.as_chunks_mut::<2>();
        for (pair, (a, b)) in pairs.iter_mut().zip(front.iter().zip(back)) {
            *pair = [a + b, a - b];
        }
        block.copy_from_slice(spare);
    }
    let mut run = 8;
    while run < length {
        for pair in block.chunks_exact_mut(2 * run) {
            let (front, back) = pair.split_at_mut(run);
            for (a, b) in front.iter_mut().zip(back) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        run *= 2;
    }
    block.iter_mut().for_each(|x| *x *= scale);
}

/// The n-th number of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(n: u64) -> u64 {
    let mut z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::search::score::dot;
    use crate::testing::clustered;

    #[test]
    fn norms_and_products_stay_as_they_are_in_any_dimension() {
        for dimension in [1, 2, 24, 63, 64, 65, 100, 127, 128, 896] {
            let rotation = Rotation::new(dimension);
            let vectors = clustered(1, 4, dimension, 2);
            let rotated: Vec<_> = vectors.iter().map(|v| rotation.rotate(v)).collect();
            assert!(rotated.iter().all(|v| v.len() == dimension.max(64)));
            for (a, b) in [(0, 0), (0, 1), (2, 3)] {
                let wanted = dot(&vectors[a], &vectors[b]);
                let product = dot(&rotated[a], &rotated[b]);
                let norm = dot(&vectors[a], &vectors[a]).max(1.0);
                assert!((product - wanted).abs() < 1e-4 * norm, "{dimension}");
            }
        }
    }

    #[test]
    fn a_vector_with_one_component_is_spread_over_all_dimensions() {
        for dimension in [64, 100, 384, 896] {
            let rotation = Rotation::new(dimension);
            for axis in [0, dimension / 2, dimension - 1] {
                let mut vector = vec![0.0; dimension];
                vector[axis] = 1.0;
                let rotated = rotation.rotate(&vector);
                let largest = rotated.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                // Of so many random components hardly one is five times the usual size.
                let usual = 1.0 / (dimension as f32).sqrt();
                assert!(largest < 5.0 * usual, "{dimension}, {axis}: {largest}");
                for half in rotated.chunks(dimension.div_ceil(2)) {
                    let energy = dot(half, half);
                    assert!(
                        (0.3..0.7).contains(&energy),
                        "{dimension}, {axis}: {energy}"
                    );
                }
            }
        }
    }
}
