//! Plans one search of a segment: through the graph, or by a scan where that is less work.

use crate::error::IndexError;
use crate::format::graph_record::Calibration;
use crate::segment::codes::QueryCode;
use crate::segment::graph::Graph;
use crate::segment::graph::calibrate::{K, LEAST_RECALL};
use crate::segment::search::candidates::best_passages;
use crate::segment::search::scan;
use crate::segment::search::score::{ScoredVector, VectorFilter};
use crate::segment::search::walk::Beam;
use crate::segment::vectors::VectorStore;

/// How many codes a scan compares in the time in which a walk compares one. Measured on clustered
/// vectors of 896 dimensions: 2.5 for 1,000 vectors, 4 for 8,000, 5 for 16,000 and more.
pub(crate) const WALK_STEP: usize = 4;

/// How far a search looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// As far as a query needs that resembles what is stored.
    Near,
    /// As far as one needs that has nothing near it.
    Far,
    /// Everything is compared.
    All,
}

/// What a search has found.
pub(crate) struct Found {
    /// Each passage by its best vector. The best comes first; among equal scores the lower vector.
    pub(crate) best: Vec<ScoredVector>,
    /// By what it is told that a search of [`Reach::Far`] would find more, if one ever does.
    pub(crate) farness: Option<Farness>,
}

/// Tells a query that has nothing near it by a score.
#[derive(Clone, Copy)]
pub(crate) struct Farness {
    place: usize,
    below: f32,
}

impl Farness {
    /// `scores` are those of all that was found for the query, here and elsewhere, the best first. What is
    /// near it elsewhere leaves no place for what a farther search would find here.
    pub(crate) fn is_far(self, scores: &[f32]) -> bool {
        let score = scores.get(self.place).or(scores.last());
        score.is_some_and(|score| *score < self.below)
    }
}

/// The best `k` passages that `filter` allows, or all of them if there are fewer.
pub(crate) fn nearest(
    vectors: &VectorStore,
    graph: Option<&Graph>,
    query: &[f32],
    k: usize,
    filter: Option<&VectorFilter<'_>>,
    reach: Reach,
) -> Result<Found, IndexError> {
    if let Some(graph) = graph.filter(|_| reach != Reach::All)
        && let Some(found) = through(vectors, graph, query, k, filter, reach)?
    {
        return Ok(found);
    }
    Ok(Found {
        best: scan::exact(vectors, query, k, filter)?,
        farness: None,
    })
}

/// Finds the best `k` passages through the graph, or returns `None` as soon as a scan would be less work
/// or would find more.
fn through(
    vectors: &VectorStore,
    graph: &Graph,
    query: &[f32],
    k: usize,
    filter: Option<&VectorFilter<'_>>,
    reach: Reach,
) -> Result<Option<Found>, IndexError> {
    let Calibration {
        ef_search,
        evaluations,
        far,
        ..
    } = graph.calibration;
    let (ef, evaluations, far) = match far.filter(|_| reach == Reach::Far) {
        Some(far) if far.recall_at_10 < LEAST_RECALL => return Ok(None),
        Some(far) => (far.ef_search, far.evaluations, None),
        None => (ef_search, evaluations, far),
    };
    let ef = ef as usize;
    let best = walk(vectors, graph, Effort { ef, evaluations }, query, k, filter)?;
    let count = vectors.count();
    let allowed = filter.map_or(count, |filter| filter.vectors);
    let farness = far.map(|far| Farness {
        // Where a filter allows one of two, the fifth is as far as the tenth of all.
        place: (K * allowed / count.max(1)).max(1) - 1,
        below: far.below,
    });
    Ok(best.map(|best| Found { best, farness }))
}

/// How far a walk looks, and how many vectors it is expected to compare.
#[derive(Clone, Copy)]
struct Effort {
    ef: usize,
    evaluations: u32,
}

/// Searches for more vectors until they belong to enough passages, and returns `None` as soon as a scan
/// would be less work.
fn walk(
    vectors: &VectorStore,
    graph: &Graph,
    effort: Effort,
    query: &[f32],
    k: usize,
    filter: Option<&VectorFilter<'_>>,
) -> Result<Option<Vec<ScoredVector>>, IndexError> {
    let count = vectors.count();
    let allowed = filter.map_or(count, |filter| filter.vectors);
    let limit = allowed / WALK_STEP;
    let mut wanted = k.saturating_mul(count.div_ceil(vectors.passages().max(1)));
    let coded = QueryCode::new(query);
    loop {
        let ef = effort.ef.max(wanted.saturating_mul(2));
        // The rarer the allowed vectors are, the farther a walk must go to find the same number of
        // them.
        let farther = ef as f64 / effort.ef as f64 * count as f64 / allowed as f64;
        if f64::from(effort.evaluations) * farther > limit as f64 {
            return Ok(None);
        }
        let wants = filter.map(|filter| |vector| (filter.allows)(vector));
        let beam = Beam {
            limit,
            wanted: wants.as_ref().map(|wants| wants as &dyn Fn(u32) -> bool),
            ..Beam::new(ef)
        };
        let found = graph.links.search(vectors.codes(), coded.coarse(), &beam)?;
        if found.compared >= limit {
            return Ok(None);
        }
        let reached = found.best.len();
        let best = best_passages(vectors, query, &coded, found.best, k)?;
        if best.len() == k {
            return Ok(Some(best));
        }
        if reached < wanted {
            // The search can reach only a part of the graph, and that part is too small.
            return Ok(None);
        }
        wanted = wanted.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::graph_record::GraphParameters;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, singles, store};

    const PARAMETERS: GraphParameters = GraphParameters {
        m: 16,
        ef_construction: 100,
    };

    fn graph(vectors: &VectorStore) -> Graph {
        Graph::build(vectors, &PARAMETERS, |_| true)
            .unwrap()
            .unwrap()
    }

    /// As an index of one segment searches it.
    fn search(
        vectors: &VectorStore,
        graph: &Graph,
        query: &[f32],
        k: usize,
        filter: Option<&VectorFilter<'_>>,
    ) -> Vec<ScoredVector> {
        let search = |reach| nearest(vectors, Some(graph), query, k, filter, reach).unwrap();
        let Found { best, farness } = search(Reach::Near);
        let scores: Vec<f32> = best.iter().map(|hit| hit.score).collect();
        if farness.is_some_and(|farness| farness.is_far(&scores)) {
            return search(Reach::Far).best;
        }
        best
    }

    /// The share of the best ten that is found, and how many searches used the graph.
    fn recall(
        vectors: &VectorStore,
        graph: &Graph,
        queries: &[Vec<f32>],
        filter: Option<&VectorFilter<'_>>,
    ) -> (f64, usize) {
        let (mut hits, mut wanted, mut walked) = (0, 0, 0);
        for query in queries {
            let query = normalised(query, query.len()).unwrap();
            let truth = scan::exact(vectors, &query, 10, filter).unwrap();
            let found = search(vectors, graph, &query, 10, filter);
            assert_eq!(found.len(), truth.len());
            assert!(found.is_sorted_by(|a, b| a.best_first(b).is_lt()));
            hits += found.iter().filter(|hit| truth.contains(hit)).count();
            wanted += truth.len();
            let through = through(vectors, graph, &query, 10, filter, Reach::Near).unwrap();
            walked += usize::from(through.is_some());
        }
        (hits as f64 / wanted as f64, walked)
    }

    #[test]
    fn a_filter_leaves_the_best_of_what_it_allows() {
        let mut rows = clustered(3, 20_050, 32, 200);
        let queries = rows.split_off(20_000);
        let (_home, vectors) = store(&singles(rows));
        let graph = graph(&vectors);
        for (every, by_graph) in [
            (1, 45..=50),
            (2, 45..=50),
            (100, 0..=0),
            (2_000, 0..=0),
            (20_000, 0..=0),
        ] {
            // Allowed vectors are scattered over the clusters, although a cluster's vectors have
            // regular numbers.
            let allows =
                |vector: u32| (vector.wrapping_mul(0x9e37_79b1) >> 12).is_multiple_of(every);
            let count = (0..20_000).filter(|&v| allows(v)).count();
            let filter = VectorFilter {
                allows: &allows,
                vectors: count,
            };
            let (recall, walked) = recall(&vectors, &graph, &queries, Some(&filter));
            println!("one of {every}: recall@10 {recall}, {walked} through the graph");
            assert!(recall >= 0.95, "one of {every}: {recall}");
            assert!(by_graph.contains(&walked), "one of {every}: {walked}");
        }
        // The walk first reaches clusters in which nothing is allowed, and has to continue to
        // others.
        let elsewhere = |vector: u32| vector % 200 >= 100;
        let filter = VectorFilter {
            allows: &elsewhere,
            vectors: 10_000,
        };
        let (recall_elsewhere, walked) = recall(&vectors, &graph, &queries, Some(&filter));
        println!("other clusters: recall@10 {recall_elsewhere}, {walked} through the graph");
        assert!(recall_elsewhere >= 0.95, "{recall_elsewhere}");
        let nothing = VectorFilter {
            allows: &|_| false,
            vectors: 0,
        };
        assert_eq!(recall(&vectors, &graph, &queries, Some(&nothing)).1, 0);
    }

    #[test]
    fn copies_of_one_vector_are_all_found_and_do_not_wall_in_the_rest() {
        let mut rows = clustered(4, 8_050, 32, 50);
        let queries = rows.split_off(8_000);
        let copy = rows[17].clone();
        for n in (0..8_000).step_by(4) {
            rows[n].clone_from(&copy);
        }
        let (_home, vectors) = store(&singles(rows));
        let graph = graph(&vectors);
        let (recall, walked) = recall(&vectors, &graph, &queries, None);
        println!("recall@10 {recall}, {walked} through the graph");
        assert!(walked > 0);
        assert!(recall >= 0.95, "{recall}");
        let copy = normalised(&copy, 32).unwrap();
        let found = through(&vectors, &graph, &copy, 50, None, Reach::Near);
        let found = found.unwrap().unwrap().best;
        assert_eq!(found, scan::exact(&vectors, &copy, 50, None).unwrap());
    }

    #[test]
    fn a_passage_of_many_vectors_is_found_once() {
        let rows = clustered(6, 8_000, 32, 100);
        // Vectors 0, 100, 200... are of one cluster; eight in a row are of one passage.
        let owned: Vec<(u32, Vec<f32>)> = (0u32..).map(|n| n / 8).zip(rows).collect();
        let (_home, vectors) = store(&owned);
        let graph = graph(&vectors);
        for vector in (0..8_000).step_by(400) {
            let query = vectors.row(vector).unwrap();
            let found = search(&vectors, &graph, query, 10, None);
            let mut owners: Vec<u32> = found.iter().map(|hit| hit.vector / 8).collect();
            assert_eq!(owners[0], vector / 8);
            owners.sort_unstable();
            owners.dedup();
            assert_eq!(owners.len(), 10);
        }
    }
}
