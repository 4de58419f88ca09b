//! Scores and their order, which all searches share.

use std::cmp::Ordering;

// Vectors that one core takes at a time, in a quarter of a millisecond at 896 dimensions. With fewer, a
// search would wait longer for the other cores' threads, where these are busy, than a part takes.
pub(crate) const PART: usize = 8192;

/// One vector and its cosine with the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScoredVector {
    pub(crate) score: f32,
    pub(crate) vector: u32,
}

impl ScoredVector {
    /// Orders by score, best first. Of two equal scores the vector with the lower number comes
    /// first, so the earlier passage does.
    pub(crate) fn best_first(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.vector.cmp(&other.vector))
    }
}

/// Which vectors a search may return.
#[derive(Clone, Copy)]
pub(crate) struct VectorFilter<'f> {
    pub(crate) allows: &'f (dyn Fn(u32) -> bool + Sync),
    /// The number of vectors that the filter allows.
    pub(crate) vectors: usize,
}

/// Dot product. Additions always happen in the same order, so that a score never depends on the
/// kind of search.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // The sums fill one AVX-512 register or two AVX registers. Adding them pairwise at the end
    // would look better, but it makes the compiler split the registers, which halves the speed.
    const LANES: usize = 16;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    // Adding zero turns -0 into 0: they are one score.
    sums.iter().sum::<f32>() + rest + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dot_is_the_sum_of_products(pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..200)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let wanted: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - wanted).abs() < 1e-4);
        }
    }
}
