//! The two scans of the delta. Both find a few candidates; the passages are scored in f32 elsewhere.
//!
//! Both run on the calling thread alone: the pool's threads may all be busy with a merge for longer than
//! a scan takes.

use std::ops::Range;

use crate::live::delta::Delta;
use crate::live::delta_search::DeltaQuery;
use crate::segment::codes::{Code, Estimate};
use crate::segment::search::candidates::{Candidate, CandidateSet};

// How many codes are prefetched ahead of the one that is being compared.
const AHEAD: usize = 4;
// For each passage that is wanted, so many are compared by their codes before the others.
const FIRST: usize = 4;

impl Delta {
    /// Those rows, ascending, that may be among the best `k` of some. Codes say how good a passage is at
    /// least and at most, so no other row can be.
    pub(crate) fn scan_codes(
        &self,
        rows: impl IntoIterator<Item = Range<usize>>,
        query: &DeltaQuery<'_>,
    ) -> Vec<u32> {
        let vectors = self.vectors();
        let mut possible = CandidateSet::of_scores_from(query.at_least, query.k);
        let mut allows = self.allows(query);
        for (vector, (numbers, scale)) in rows.into_iter().flat_map(|rows| vectors.codes(rows)) {
            if query.coded.at_most(numbers, scale) >= possible.reached() {
                let row = vectors.row(vector);
                if allows(row) {
                    let estimate = query.coded.estimate(numbers, scale);
                    possible.offer(row, Candidate { vector, estimate });
                }
            }
        }
        self.rows_of(&possible.finish())
    }

    /// Those rows, ascending, that are probably among the best `k` of some. Sketches say how good a vector
    /// probably is at most. Then the codes of those are compared that are likely to be good enough.
    pub(crate) fn scan_sketches(
        &self,
        rows: impl IntoIterator<Item = Range<usize>>,
        query: &DeltaQuery<'_>,
    ) -> Vec<u32> {
        let vectors = self.vectors();
        let mut sketched = vectors.sketch_query(query.unit);
        let mut possible = CandidateSet::of_scores_from(query.at_least, query.k);
        let mut allows = self.allows(query);
        for rows in rows {
            let reached = possible.reached();
            vectors.scan_sketches(rows, &mut sketched, reached, |vector, estimate| {
                let row = vectors.row(vector);
                if allows(row) {
                    possible.offer(row, Candidate { vector, estimate });
                }
                possible.reached()
            });
        }
        let candidates = possible.finish();
        let is_of_one_passage =
            |a: &Candidate, b: &Candidate| vectors.row(a.vector) == vectors.row(b.vector);
        let passages = candidates.chunk_by(is_of_one_passage).map(|passage| {
            let at_most = passage.iter().map(|c| c.estimate.at_most());
            (at_most.fold(f32::NEG_INFINITY, f32::max), passage)
        });
        let (scores, passages): (Vec<f32>, Vec<&[Candidate]>) = passages.unzip();

        // A few of the most promising ones reach a score that most of the others cannot. These are then
        // compared in the order in which they stand in memory.
        let mut possible = CandidateSet::of_scores_from(query.at_least, query.k);
        let first = nth_best(&scores, query.k.saturating_mul(FIRST));
        let of_scores = |wanted: Range<f32>| {
            let passages = passages.iter().zip(&scores);
            let passages = passages.filter(move |(_, score)| wanted.contains(score));
            passages.map(|(passage, _)| *passage).collect::<Vec<_>>()
        };
        self.compare_codes(&of_scores(first..f32::INFINITY), query, &mut possible);
        let rest = of_scores(possible.reached()..first);
        self.compare_codes(&rest, query, &mut possible);
        self.rows_of(&possible.finish())
    }

    /// Offers the candidates of passages by their codes.
    fn compare_codes(
        &self,
        passages: &[&[Candidate]],
        query: &DeltaQuery<'_>,
        possible: &mut CandidateSet,
    ) {
        let vectors = self.vectors();
        for (n, passage) in passages.iter().enumerate() {
            if let Some(later) = passages.get(n + AHEAD) {
                vectors.prefetch(later[0].vector);
            }
            for &Candidate { vector, .. } in *passage {
                let (numbers, [scale, error]) = vectors.code(vector);
                let estimate = Estimate {
                    score: query.coded.coarse().dot(Code { numbers, scale }),
                    within: query.coded.coarse_probably_within(error),
                };
                possible.offer(vectors.row(vector), Candidate { vector, estimate });
            }
        }
    }

    /// Whether a row has a passage that the filter allows. The vectors of a passage come one after the
    /// other, so the filter is compared with each passage once.
    fn allows(&self, query: &DeltaQuery<'_>) -> impl FnMut(u32) -> bool {
        let mut last = None;
        move |row| match last {
            Some((known, is_allowed)) if known == row => is_allowed,
            _ => {
                let is_allowed = self.get(row).is_some_and(|passage| query.allows(passage));
                last = Some((row, is_allowed));
                is_allowed
            }
        }
    }

    fn rows_of(&self, candidates: &[Candidate]) -> Vec<u32> {
        let rows = candidates.iter().map(|c| self.vectors().row(c.vector));
        let mut rows: Vec<u32> = rows.collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

/// The n-th highest of some scores, or the lowest if there are fewer.
fn nth_best(scores: &[f32], n: usize) -> f32 {
    let mut scores = scores.to_vec();
    let last = n.min(scores.len()).saturating_sub(1);
    if last >= scores.len() {
        return f32::NEG_INFINITY;
    }
    *scores.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use crate::segment::passages::digest;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, delta_passage, e5_vectors};

    /// Pushes a passage with vectors. Its metadata says whether its number is a multiple of 50.
    fn push(delta: &mut Delta, number: usize, vectors: &[Vec<f32>]) {
        let metadata = serde_json::json!({"rare": number.is_multiple_of(50)});
        let metadata = metadata.as_object().cloned();
        delta.push(delta_passage(number, vectors.to_vec(), metadata));
    }

    /// A delta of passages with so many vectors each, without a graph.
    fn delta(vectors: &[Vec<f32>], per_passage: usize) -> Delta {
        let mut delta = Delta::new(vectors[0].len(), usize::MAX);
        for (number, vectors) in vectors.chunks(per_passage).enumerate() {
            push(&mut delta, number, vectors);
        }
        delta
    }

    /// The share of the best `k` of a scan of codes that a scan of sketches finds. Its hits are in order,
    /// each passage comes once, and none is better than the best.
    fn recall(delta: &Delta, queries: &[Vec<f32>], k: usize, filter: Option<&Filter>) -> f64 {
        let (mut found, mut wanted) = (0, 0);
        for query in queries {
            let unit = &normalised(query, delta.dimension()).unwrap();
            let query = DeltaQuery::new(unit, k, filter);
            let truth = delta.search(&query, true);
            let rows = delta.scan_sketches(std::iter::once(0..delta.rows()), &query);
            assert!(rows.is_sorted_by(|a, b| a < b));
            let wanted_rows = truth.iter().map(|hit| delta.find(&hit.1.digest).unwrap());
            found += wanted_rows.filter(|row| rows.contains(row)).count();
            wanted += truth.len();
            let hits = delta.search(&query, false);
            assert_eq!(hits.len(), truth.len());
            assert!(hits.is_sorted_by(|a, b| a.0 >= b.0));
        }
        assert!(wanted > 0);
        found as f64 / wanted as f64
    }

    /// `clustered`, with a large direction that all share, as embeddings of one model do.
    fn sharing(seed: u64, count: usize, dimension: usize) -> Vec<Vec<f32>> {
        let mut vectors = clustered(seed, count, dimension, 40);
        for vector in &mut vectors {
            vector.iter_mut().for_each(|x| *x += 2.0);
        }
        vectors
    }

    #[test]
    fn sketches_lead_to_what_a_scan_of_codes_finds() {
        for dimension in [24, 100, 384] {
            let mut by_topic = clustered(1, 4_050, dimension, 40);
            let mut queries = by_topic.split_off(4_000);
            let sharing = sharing(2, 4_050, dimension);
            let clustered = by_topic.clone();
            for (n, vector) in by_topic.iter_mut().enumerate() {
                vector.clone_from(&clustered[n % 100 * 40 + n / 100]);
            }
            for (name, vectors) in [("clustered", clustered), ("by topic", by_topic)] {
                let recall = recall(&delta(&vectors, 1), &queries, 10, None);
                println!("{dimension}, {name}: {recall}");
                assert!(recall >= 0.98, "{dimension}, {name}: {recall}");
            }
            queries.clone_from_slice(&sharing[4_000..]);
            let recall = recall(&delta(&sharing[..4_000], 1), &queries, 10, None);
            println!("{dimension}, sharing a direction: {recall}");
            assert!(recall >= 0.98, "{dimension}: {recall}");
        }
    }

    #[test]
    fn sketches_serve_real_embeddings() {
        let Some(mut vectors) = e5_vectors() else {
            println!("skipped: the sample of E5 embeddings is not here");
            return;
        };
        let queries = vectors.split_off(900);
        let recall = recall(&delta(&vectors, 1), &queries, 10, None);
        assert!(recall >= 0.98, "{recall}");
    }

    #[test]
    fn a_passage_counts_once_by_its_best_vector() {
        let mut vectors = clustered(3, 6_040, 48, 40);
        let queries = vectors.split_off(6_000);
        let delta = delta(&vectors, 3);
        assert_eq!(delta.rows(), 2_000);
        let recall = recall(&delta, &queries, 10, None);
        assert!(recall >= 0.98, "{recall}");
        let own = (0..6_000).step_by(60).filter(|&n| {
            let unit = normalised(&vectors[n], 48).unwrap();
            let best = &delta.search(&DeltaQuery::new(&unit, 1, None), false)[0];
            (best.1.passage.id.as_str(), best.2) == ((n / 3).to_string().as_str(), n as u32 % 3)
        });
        assert!(own.count() >= 98);
    }

    #[test]
    fn what_is_deleted_or_not_allowed_hides_nothing_that_is_allowed() {
        let mut vectors = clustered(4, 4_050, 48, 10);
        let queries = vectors.split_off(4_000);
        let mut delta = delta(&vectors, 1);
        let rare: Filter = "rare=true".parse().unwrap();
        let among_rare = recall(&delta, &queries, 10, Some(&rare));
        assert!(among_rare >= 0.98, "{among_rare}");
        // All that is left of most clusters is one passage in 25.
        for number in (0..4_000).filter(|n| n % 250 >= 10) {
            assert!(delta.remove(&digest(&number.to_string())));
        }
        let left = recall(&delta, &queries, 10, None);
        assert!(left >= 0.98, "{left}");
    }

    #[test]
    fn only_what_reaches_a_given_score_need_be_found() {
        let mut vectors = clustered(6, 3_020, 48, 10);
        let queries = vectors.split_off(3_000);
        let delta = delta(&vectors, 1);
        for query in queries {
            let unit = normalised(&query, 48).unwrap();
            let best = |exact, at_least| -> Vec<(f32, u32)> {
                let query = DeltaQuery {
                    at_least,
                    ..DeltaQuery::new(&unit, 100, None)
                };
                let hits = delta.search(&query, exact).into_iter();
                hits.map(|hit| (hit.0, delta.find(&hit.1.digest).unwrap()))
                    .collect()
            };
            for exact in [false, true] {
                let all = best(exact, f32::NEG_INFINITY);
                let some = best(exact, all[9].0);
                assert_eq!(some[..10], all[..10]);
                // Bounds are wide, but not so wide that most of the others are compared.
                assert!(some.len() < 50, "{exact}: {}", some.len());
            }
        }
    }

    #[test]
    fn equal_vectors_come_in_their_order_and_a_large_k_gets_everything() {
        let mut vectors = clustered(5, 3_000, 48, 10);
        for n in (7..3_000).step_by(10) {
            vectors[n] = vectors[7].clone();
        }
        let delta = delta(&vectors, 1);
        let unit = normalised(&vectors[7], 48).unwrap();
        let ids = |k: usize| -> Vec<usize> {
            let hits = delta.search(&DeltaQuery::new(&unit, k, None), false);
            let hits = hits.into_iter();
            hits.map(|hit| hit.1.passage.id.parse().unwrap()).collect()
        };
        assert_eq!(ids(30), (7..).step_by(10).take(30).collect::<Vec<_>>());
        let mut all = ids(10_000);
        all.sort_unstable();
        assert_eq!(all, (0..3_000).collect::<Vec<_>>());
    }
}
