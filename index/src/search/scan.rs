//! Scores, their order, and the exact scan that every other search is judged by.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::error::IndexError;
use crate::search::candidates::{Candidate, Possible, rescore};
use crate::segment::codes::QueryCode;
use crate::segment::vectors::VectorStore;

// Vectors that one core takes at a time; with fewer it is done before others are awake.
pub(crate) const PART: usize = 2048;

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

/// Which vectors a search may return.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'f> {
    pub(crate) allows: &'f (dyn Fn(u32) -> bool + Sync),
    /// How many vectors it allows.
    pub(crate) vectors: usize,
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

/// The best `k` passages of all that `filter` allows, each by its best vector: what scoring every
/// f32 row gives, to the bit.
///
/// The codes are scanned; only rows whose score may reach the k-th best are read.
pub(crate) fn exact(
    vectors: &VectorStore,
    query: &[f32],
    k: usize,
    filter: Option<&Allowed<'_>>,
) -> Result<Vec<Scored>, IndexError> {
    let coded = QueryCode::new(query);
    let codes = vectors.codes();
    let count = vectors.count();
    let allowed = |vector: u32| filter.is_none_or(|filter| (filter.allows)(vector));
    let part = |from: usize| -> Result<Vec<Candidate>, IndexError> {
        let range = from as u32..count.min(from + PART) as u32;
        let rows = codes.rows(range.clone())?.chunks_exact(codes.stride());
        let scales = codes.scales(range.clone())?;
        // What cannot be among the best of a part cannot be among the best of all.
        let mut possible = Possible::new(vectors.owners(), k);
        for (vector, (row, &scale)) in range.zip(rows.zip(scales)) {
            if allowed(vector) && coded.at_most(row, scale) >= possible.reached() {
                let estimate = coded.estimate(row, scale);
                possible.offer(Candidate { vector, estimate });
            }
        }
        Ok(possible.finish())
    };
    let parts: Vec<Vec<Candidate>> = if count <= PART {
        vec![part(0)?]
    } else {
        let parts = (0..count.div_ceil(PART)).into_par_iter();
        parts.map(|n| part(n * PART)).collect::<Result<_, _>>()?
    };
    rescore(vectors, query, parts.concat(), k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, e5_vectors, singles, store};
    use proptest::prelude::*;

    /// Every f32 row is scored, and everything is sorted.
    fn plain(
        vectors: &VectorStore,
        query: &[f32],
        k: usize,
        allows: &dyn Fn(u32) -> bool,
    ) -> Vec<Scored> {
        let mut all: Vec<Scored> = (0..vectors.count() as u32)
            .filter(|&vector| allows(vector))
            .map(|vector| Scored {
                score: dot(query, vectors.row(vector).unwrap()),
                vector,
            })
            .collect();
        all.sort_by(Scored::best_first);
        let mut seen = std::collections::HashSet::new();
        all.retain(|scored| seen.insert(vectors.owners()[scored.vector as usize]));
        all.truncate(k);
        all
    }

    #[test]
    fn a_scan_on_all_cores_gives_what_scoring_every_row_gives() {
        let rows = clustered(5, 5_000, 40, 7);
        let (_home, vectors) = store(&singles(rows.clone()));
        for query in rows.iter().step_by(500) {
            let query = normalised(query, 40).unwrap();
            let found = exact(&vectors, &query, 10, None).unwrap();
            assert_eq!(found, plain(&vectors, &query, 10, &|_| true));
        }
    }

    #[test]
    fn few_rows_are_read_to_scan_real_embeddings() {
        let Some(rows) = e5_vectors() else {
            println!("skipped: the sample of E5 embeddings is not here");
            return;
        };
        let (_home, vectors) = store(&singles(rows));
        let mut read = 0;
        for number in 0..100 {
            let coded = QueryCode::new(vectors.row(number).unwrap());
            let rows = vectors.codes().rows(0..1000).unwrap().chunks_exact(768);
            let scales = vectors.codes().scales(0..1000).unwrap();
            let mut possible = Possible::new(vectors.owners(), 10);
            for (vector, (row, scale)) in (0..).zip(rows.zip(scales)) {
                let estimate = coded.estimate(row, *scale);
                possible.offer(Candidate { vector, estimate });
            }
            read += possible.finish().len();
        }
        println!("{} rows of 1000 are read", read / 100);
        assert!(read / 100 < 100, "{read}");
    }

    // Few different numbers, so that equal scores and copies are frequent.
    fn coarse(dimension: usize) -> impl Strategy<Value = Vec<f32>> {
        let fine = prop::collection::vec(-1.0f32..1.0, dimension);
        let few = prop::collection::vec((-1i8..=1).prop_map(f32::from), dimension);
        prop_oneof![fine, few].prop_filter("no direction", |v| v.iter().any(|&x| x != 0.0))
    }

    fn collection() -> impl Strategy<Value = (Vec<f32>, Vec<(u32, Vec<f32>)>)> {
        prop::sample::select(vec![1usize, 3, 16, 70]).prop_flat_map(|dimension| {
            let passage = prop::collection::vec(coarse(dimension), 1..4);
            let passages = prop::collection::vec(passage, 1..60).prop_map(|passages| {
                let owned = |(owner, vectors): (u32, Vec<Vec<f32>>)| {
                    vectors.into_iter().map(move |vector| (owner, vector))
                };
                (0..).zip(passages).flat_map(owned).collect()
            });
            (coarse(dimension), passages)
        })
    }

    proptest! {
        #[test]
        fn a_scan_of_codes_gives_what_scoring_every_row_gives(
            (query, rows) in collection(),
            k in 0usize..12,
            skip in 1u32..5,
        ) {
            let query = normalised(&query, query.len()).unwrap();
            let (_home, vectors) = store(&rows);
            let allows = |vector: u32| vector.is_multiple_of(skip);
            let filter = Allowed { allows: &allows, vectors: rows.len().div_ceil(skip as usize) };
            let found = exact(&vectors, &query, k, Some(&filter)).unwrap();
            prop_assert_eq!(found, plain(&vectors, &query, k, &allows));
        }

        #[test]
        fn dot_is_the_sum_of_products(pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..200)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let wanted: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - wanted).abs() < 1e-4);
        }
    }
}
