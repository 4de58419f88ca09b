//! From the nearest vectors that a database finds to the best passages.

use std::collections::HashSet;

use crate::error::IndexError;
use crate::format::document_rules::VectorsPer;
use crate::live::hit::{Hit, SearchOptions};

/// Vectors that are asked for a passage at first, where passages have several.
const VECTORS_PER_PASSAGE: usize = 4;

/// A hit of one vector, and the place of its passage in the order in which passages were put in.
pub(super) type VectorHit = (Hit, i64);

/// The best `k` passages. `nearest` finds as many vectors as it is told; it is asked again for more where several of
/// them are of one passage.
///
/// # Errors
/// What `nearest` returns.
pub(super) fn best_passages(
    options: &SearchOptions,
    vectors: VectorsPer,
    mut nearest: impl FnMut(usize) -> Result<Vec<VectorHit>, IndexError>,
) -> Result<Vec<Hit>, IndexError> {
    let mut limit = options.k;
    if vectors == VectorsPer::Sentence {
        limit *= VECTORS_PER_PASSAGE;
    }
    loop {
        let found = nearest(limit)?;
        let all = found.len() < limit;
        let hits = best_of_each(found);
        if hits.len() >= options.k || all {
            return Ok(near_enough(hits, options));
        }
        limit *= 4;
    }
}

/// Those of the hits, best first, that were asked for.
pub(super) fn near_enough(
    hits: impl IntoIterator<Item = Hit>,
    options: &SearchOptions,
) -> Vec<Hit> {
    let is_near = |hit: &Hit| options.min_score.is_none_or(|least| hit.score >= least);
    hits.into_iter()
        .take(options.k)
        .take_while(is_near)
        .collect()
}

/// The best hit of each passage, best first; of equal scores the one that was put in earlier first.
fn best_of_each(mut hits: Vec<VectorHit>) -> Vec<Hit> {
    // The score of a vector without a direction, which others may have put in, is NaN.
    hits.retain(|(hit, _)| !hit.score.is_nan());
    hits.sort_by(|(a, one), (b, other)| b.score.total_cmp(&a.score).then(one.cmp(other)));
    let mut seen = HashSet::new();
    let first = hits
        .into_iter()
        .filter(|(hit, _)| seen.insert(hit.passage.id.clone()));
    first.map(|(hit, _)| hit).collect()
}
