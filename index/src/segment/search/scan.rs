//! The exact scan, which every other search is compared with.

use rayon::prelude::*;

use crate::error::IndexError;
use crate::segment::codes::QueryCode;
use crate::segment::search::candidates::{Candidate, CandidateSet, rescore};
use crate::segment::search::score::{PART, ScoredVector, VectorFilter};
use crate::segment::vectors::VectorStore;

/// The best `k` passages that `filter` allows, each scored by its best vector. The result equals
/// that of scoring every f32 row, bit for bit.
///
/// The codes are scanned; only rows whose score may reach the k-th best are read.
pub(crate) fn exact(
    vectors: &VectorStore,
    query: &[f32],
    k: usize,
    filter: Option<&VectorFilter<'_>>,
) -> Result<Vec<ScoredVector>, IndexError> {
    let coded = QueryCode::new(query);
    let codes = vectors.codes();
    let count = vectors.count();
    let allowed = |vector: u32| filter.is_none_or(|filter| (filter.allows)(vector));
    let part = |from: usize| -> Result<Vec<Candidate>, IndexError> {
        let range = from as u32..count.min(from + PART) as u32;
        let rows = codes.rows(range.clone())?.chunks_exact(codes.stride());
        let scales = codes.scales(range.clone())?;
        // A vector that is not among the best of its part is not among the best of all.
        let mut possible = CandidateSet::new(k);
        for (vector, (row, &scale)) in range.zip(rows.zip(scales)) {
            if allowed(vector) && coded.at_most(row, scale) >= possible.reached() {
                let estimate = coded.estimate(row, scale);
                let owner = vectors.owners()[vector as usize];
                possible.offer(owner, Candidate { vector, estimate });
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
    use crate::segment::search::score::dot;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, e5_vectors, singles, store};
    use proptest::prelude::*;

    /// Every f32 row is scored, and everything is sorted.
    fn plain(
        vectors: &VectorStore,
        query: &[f32],
        k: usize,
        allows: &dyn Fn(u32) -> bool,
    ) -> Vec<ScoredVector> {
        let mut all: Vec<ScoredVector> = (0..vectors.count() as u32)
            .filter(|&vector| allows(vector))
            .map(|vector| ScoredVector {
                score: dot(query, vectors.row(vector).unwrap()),
                vector,
            })
            .collect();
        all.sort_by(ScoredVector::best_first);
        let mut seen = std::collections::HashSet::new();
        all.retain(|scored| seen.insert(vectors.owners()[scored.vector as usize]));
        all.truncate(k);
        all
    }

    #[test]
    fn a_scan_on_all_cores_gives_what_scoring_every_row_gives() {
        let rows = clustered(5, 3 * PART, 40, 7);
        let (_home, vectors) = store(&singles(rows.clone()));
        for query in rows.iter().step_by(2_500) {
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
            let mut possible = CandidateSet::new(10);
            for (vector, (row, scale)) in (0..).zip(rows.zip(scales)) {
                let estimate = coded.estimate(row, *scale);
                possible.offer(vector, Candidate { vector, estimate });
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
            let filter = VectorFilter { allows: &allows, vectors: rows.len().div_ceil(skip as usize) };
            let found = exact(&vectors, &query, k, Some(&filter)).unwrap();
            prop_assert_eq!(found, plain(&vectors, &query, k, &allows));
        }

    }
}
