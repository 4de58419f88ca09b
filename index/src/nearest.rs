//! One search: through the graph, or by a scan where that is less work.

use crate::calibrate::Calibration;
use crate::codes::{Estimate, QueryCode};
use crate::error::IndexError;
use crate::links::Links;
use crate::scan::{self, Candidate, Filter, Scored};
use crate::vectors::VectorStore;
use crate::walk::{Beam, Ranked};

/// Codes that a scan compares in the time in which a walk compares one. Measured, see `benches`.
pub(crate) const WALK_STEP: usize = 4;

/// A graph and what a search through it was measured to need.
pub(crate) struct Graph {
    pub(crate) links: Links,
    pub(crate) calibration: Calibration,
}

/// The best `k` passages of all that `filter` allows, each by its best vector; `k` of them if there
/// are. Best first; of equal scores the lower vector first.
pub(crate) fn nearest(
    vectors: &VectorStore,
    graph: Option<&Graph>,
    query: &[f32],
    k: usize,
    filter: Option<&Filter<'_>>,
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
    filter: Option<&Filter<'_>>,
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
    // 1/√dimension; six times that is not exceeded in practice, and spares reading most rows.
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
    scan::rescore(vectors, query, candidates, k)
}
