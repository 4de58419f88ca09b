//! Scores, their order, and the exact scan that every other search is judged by.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::error::IndexError;
use crate::vectors::VectorStore;

// Below this many numbers one core is done before others are awake.
const PARALLEL_FROM: usize = 1 << 19;

/// One vector and its cosine with the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    pub(crate) score: f32,
    pub(crate) vector: u32,
}

impl Scored {
    /// Of two equal scores the vector with the lower number comes first, hence the earlier passage.
    pub(crate) fn best_first(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.vector.cmp(&other.vector))
    }
}

/// Dot product. The same order of additions wherever it is called, so that a score never depends on
/// the search.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // One AVX-512 or two AVX registers of independent sums; adding them up pairwise in the end
    // would look better, but makes the compiler split the registers and halves the speed.
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

/// Scores the vectors of the allowed passages and returns the best `k` passages, each by its best
/// vector.
pub(crate) fn exact(
    vectors: &VectorStore,
    query: &[f32],
    k: usize,
    allowed: impl Fn(u32) -> bool + Sync,
) -> Result<Vec<Scored>, IndexError> {
    let owners = vectors.owners();
    let score = |vector: usize| -> Result<Scored, IndexError> {
        let score = match allowed(owners[vector]) {
            true => dot(query, vectors.row(vector as u32)?),
            false => f32::NEG_INFINITY,
        };
        Ok(Scored {
            score,
            vector: vector as u32,
        })
    };
    let scores: Vec<Scored> = if owners.len() * vectors.dimension() < PARALLEL_FROM {
        (0..owners.len()).map(score).collect::<Result<_, _>>()?
    } else {
        (0..owners.len())
            .into_par_iter()
            .map(score)
            .collect::<Result<_, _>>()?
    };
    let mut best: Vec<Scored> = Vec::new();
    let mut vector = 0;
    for group in owners.chunk_by(|a, b| a == b) {
        let of_group = &scores[vector..vector + group.len()];
        vector += group.len();
        best.extend(of_group.iter().copied().min_by(Scored::best_first));
    }
    best.retain(|scored| scored.score > f32::NEG_INFINITY);
    if k < best.len() {
        best.select_nth_unstable_by(k, Scored::best_first);
        best.truncate(k);
    }
    best.sort_unstable_by(Scored::best_first);
    Ok(best)
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
