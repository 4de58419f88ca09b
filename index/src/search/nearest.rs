//! One search: through the graph, or by a scan where that is less work.

use crate::error::IndexError;
use crate::graph;
use crate::graph::calibrate::{Calibration, LEAST_RECALL, RECALL, calibrate};
use crate::graph::links::Links;
use crate::manifest::GraphParameters;
use crate::search::candidates::{Candidate, rescore};
use crate::search::scan::{self, Allowed, Scored};
use crate::search::walk::{Beam, Ranked};
use crate::segment::codes::{Estimate, QueryCode};
use crate::segment::vectors::VectorStore;

/// Codes that a scan compares in the time in which a walk compares one. Measured on clustered vectors of
/// 896 dimensions: 2.5 for 1,000 of them, 4 for 8,000, 5 for 16,000 and more.
pub(crate) const WALK_STEP: usize = 4;

/// A graph and what a search through it was measured to need.
pub(crate) struct Graph {
    pub(crate) links: Links,
    pub(crate) calibration: Calibration,
}

impl Graph {
    /// Links all vectors, of which there is at least one, and measures the graph. `None` if it does not
    /// find enough with any `ef`: such vectors are better scanned.
    pub(crate) fn build(
        vectors: &VectorStore,
        parameters: &GraphParameters,
        on_linked: impl FnMut(usize) -> bool,
    ) -> Result<Option<Self>, IndexError> {
        let links = graph::build(vectors.codes(), parameters, on_linked)?;
        let calibration = calibrate(vectors, &links, RECALL)?;
        if calibration.recall_at_10 < LEAST_RECALL {
            tracing::warn!(
                ?calibration,
                "the graph finds too little, so every search is a scan"
            );
            return Ok(None);
        }
        Ok(Some(Self { links, calibration }))
    }
}

/// The best `k` passages of all that `filter` allows, each by its best vector; `k` of them if there
/// are. Best first; of equal scores the lower vector first.
pub(crate) fn nearest(
    vectors: &VectorStore,
    graph: Option<&Graph>,
    query: &[f32],
    k: usize,
    filter: Option<&Allowed<'_>>,
) -> Result<Vec<Scored>, IndexError> {
    if let Some(graph) = graph
        && let Some(best) = through(vectors, graph, query, k, filter)?
    {
        return Ok(best);
    }
    scan::exact(vectors, query, k, filter)
}

/// The best `k` passages through the graph. Asks for more vectors until enough passages are among
/// them; none once a scan is less work.
fn through(
    vectors: &VectorStore,
    graph: &Graph,
    query: &[f32],
    k: usize,
    filter: Option<&Allowed<'_>>,
) -> Result<Option<Vec<Scored>>, IndexError> {
    let Calibration {
        ef_search,
        evaluations,
        ..
    } = graph.calibration;
    let count = vectors.count();
    let allowed = filter.map_or(count, |filter| filter.vectors);
    let limit = allowed / WALK_STEP;
    let mut wanted = k.saturating_mul(count.div_ceil(vectors.passages().max(1)));
    let coded = QueryCode::new(query);
    loop {
        let ef = (ef_search as usize).max(wanted.saturating_mul(2));
        // To find as many of those that are allowed, a walk goes as much farther as they are rarer.
        let farther = ef as f64 / f64::from(ef_search) * count as f64 / allowed as f64;
        if f64::from(evaluations) * farther > limit as f64 {
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
            // The part of the graph that the search can reach is too small.
            return Ok(None);
        }
        wanted = wanted.saturating_mul(2);
    }
}

/// The best `k` passages among the vectors that a walk has found, each by its best vector in f32.
pub(crate) fn best_passages(
    vectors: &VectorStore,
    query: &[f32],
    coded: &QueryCode,
    found: Vec<Ranked>,
    k: usize,
) -> Result<Vec<Scored>, IndexError> {
    // What codes lack points as good as anywhere, so of its norm a query sees a share of about
    // 1/√dimension. Six times that spares reading most rows; the recall is measured with it.
    let share = (6.0 / (vectors.dimension() as f32).sqrt()).min(1.0);
    let mut candidates = found
        .into_iter()
        .map(|ranked| {
            let vector = ranked.vector();
            let [[_, error]] = vectors.codes().scales(vector..vector + 1)? else {
                return Err(vectors.codes().damaged("it is too short"));
            };
            let within = share * coded.coarse_within(*error);
            let estimate = Estimate {
                score: ranked.score(),
                within,
            };
            Ok(Candidate { vector, estimate })
        })
        .collect::<Result<Vec<_>, IndexError>>()?;
    candidates.sort_unstable_by_key(|candidate| candidate.vector);
    rescore(vectors, query, candidates, k)
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Share of the best ten that is found, and how many searches took the graph.
    fn recall(
        vectors: &VectorStore,
        graph: &Graph,
        queries: &[Vec<f32>],
        filter: Option<&Allowed<'_>>,
    ) -> (f64, usize) {
        let (mut hits, mut wanted, mut walked) = (0, 0, 0);
        for query in queries {
            let query = normalised(query, vectors.dimension()).unwrap();
            let truth = scan::exact(vectors, &query, 10, filter).unwrap();
            let found = nearest(vectors, Some(graph), &query, 10, filter).unwrap();
            assert_eq!(found.len(), truth.len());
            assert!(found.is_sorted_by(|a, b| a.best_first(b).is_lt()));
            hits += found.iter().filter(|hit| truth.contains(hit)).count();
            wanted += truth.len();
            let through = through(vectors, graph, &query, 10, filter).unwrap();
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
        for (every, by_graph) in [(1, 50), (2, 50), (100, 0), (2_000, 0), (20_000, 0)] {
            // Scattered over the clusters, which follow one another in the numbers.
            let allows = |vector: u32| (vector.wrapping_mul(7_919) % 20_000).is_multiple_of(every);
            let count = (0..20_000).filter(|&v| allows(v)).count();
            let filter = Allowed {
                allows: &allows,
                vectors: count,
            };
            let (recall, walked) = recall(&vectors, &graph, &queries, Some(&filter));
            println!("one of {every}: recall@10 {recall}, {walked} through the graph");
            assert!(recall >= 0.95, "one of {every}: {recall}");
            assert_eq!(walked, by_graph, "one of {every}");
        }
        // The walk ends up where nothing is allowed, and has to go on to other clusters.
        let elsewhere = |vector: u32| vector % 200 >= 100;
        let filter = Allowed {
            allows: &elsewhere,
            vectors: 10_000,
        };
        let (recall_elsewhere, walked) = recall(&vectors, &graph, &queries, Some(&filter));
        println!("other clusters: recall@10 {recall_elsewhere}, {walked} through the graph");
        assert!(recall_elsewhere >= 0.95, "{recall_elsewhere}");
        let nothing = Allowed {
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
        let found = through(&vectors, &graph, &copy, 50, None).unwrap().unwrap();
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
            let found = nearest(&vectors, Some(&graph), query, 10, None).unwrap();
            let mut owners: Vec<u32> = found.iter().map(|hit| hit.vector / 8).collect();
            assert_eq!(owners[0], vector / 8);
            owners.sort_unstable();
            owners.dedup();
            assert_eq!(owners.len(), 10);
        }
    }
}
