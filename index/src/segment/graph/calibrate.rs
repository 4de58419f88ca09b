//! Chooses the `ef` that reaches a recall, by searching for vectors that the index holds, and for vectors
//! that have nothing near them.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::error::IndexError;
use crate::format::graph_record::{Calibration, FarCalibration};
use crate::segment::codes::QueryCode;
use crate::segment::graph::far_queries::far_queries;
use crate::segment::graph::links::Links;
use crate::segment::search::candidates::best_passages;
use crate::segment::search::scan;
use crate::segment::search::score::{ScoredVector, VectorFilter};
use crate::segment::search::walk::{Adjacency, Beam};
use crate::segment::vectors::VectorStore;

/// The recall@10 to reach. The promise to users is .95; the margin is for queries that differ from
/// those of the measurement.
pub(crate) const RECALL: f64 = 0.98;

/// The recall@10 to reach where nothing is near the query. A walk for one query then finds all or misses
/// many, so that the mean must be higher for few to be bad.
const FAR_RECALL: f64 = 0.99;

/// The recall@10 that a graph must reach with some `ef` to be used at all.
pub(crate) const LEAST_RECALL: f32 = 0.95;

/// The passages of an answer whose recall is measured.
pub(crate) const K: usize = 10;
// Queries of a measurement: the standard error of a recall of .98 is then about .003.
const QUERIES: usize = 256;
/// One in so many queries that resemble what is stored may be taken for one that has nothing near it. It
/// is then searched for twice.
pub(crate) const MISTAKEN: usize = 50;
const LADDER: [u32; 14] = [
    16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048,
];

/// One query of a measurement and its true answer.
struct Trial<'v> {
    query: Cow<'v, [f32]>,
    /// The vector that the query is, if it is one. It is then searched for as if it were not in the index:
    /// the walk does not pass it, and its passage does not count.
    stored: Option<u32>,
    truth: Vec<ScoredVector>,
}

/// What searches with one `ef` found.
struct Measured {
    ef: u32,
    recall: f32,
    /// The vectors that a search compared, in the mean.
    evaluations: u32,
}

/// The smallest `ef` that reaches the recall, or the largest there is: for queries that are vectors of
/// the index, and for those that have nothing near them.
pub(crate) fn calibrate(
    vectors: &VectorStore,
    links: &Links,
    recall: f64,
) -> Result<Calibration, IndexError> {
    let stored = avoidable(vectors, links)?.into_iter();
    let stored = stored.map(|vector| Ok((Cow::Borrowed(vectors.row(vector)?), Some(vector))));
    let near = trials(vectors, stored.collect::<Result<_, IndexError>>()?)?;
    let measured = least_ef(vectors, links, &near, LADDER[0], recall)?;
    Ok(Calibration {
        ef_search: measured.ef,
        recall_at_10: measured.recall,
        evaluations: measured.evaluations,
        far: far(vectors, links, &near, measured.ef)?,
    })
}

/// What queries need that have nothing near them, unless that is what others need.
fn far(
    vectors: &VectorStore,
    links: &Links,
    near: &[Trial<'_>],
    ef: u32,
) -> Result<Option<FarCalibration>, IndexError> {
    let mut scores: Vec<f32> = near.iter().filter_map(Trial::last_score).collect();
    scores.sort_by(f32::total_cmp);
    let Some(&below) = scores.get(scores.len() / MISTAKEN) else {
        return Ok(None);
    };
    let queries = far_queries(vectors, QUERIES)?.into_iter();
    let mut far = trials(vectors, queries.map(|q| (Cow::Owned(q), None)).collect())?;
    far.retain(|trial| trial.last_score().is_some_and(|score| score < below));
    if far.is_empty() {
        return Ok(None);
    }
    let measured = least_ef(vectors, links, &far, ef, FAR_RECALL)?;
    Ok((measured.ef > ef).then_some(FarCalibration {
        below,
        ef_search: measured.ef,
        recall_at_10: measured.recall,
        evaluations: measured.evaluations,
    }))
}

/// Vectors from everywhere in the index that a walk can avoid. It cannot avoid a vector of the upper
/// layers, or one that leads to its copies.
fn avoidable(vectors: &VectorStore, links: &Links) -> Result<Vec<u32>, IndexError> {
    let count = vectors.count() as u32;
    let step = count.div_ceil(QUERIES as u32).max(1);
    let is_avoidable = |vector: u32| -> Result<bool, IndexError> {
        let code = vectors.codes().code(vector)?;
        for &link in links.links(0, vector) {
            if vectors.codes().code(link)? == code {
                return Ok(false);
            }
        }
        Ok(links.is_low(vector))
    };
    let mut sample = Vec::with_capacity(QUERIES);
    for from in (0..count).step_by(step as usize) {
        for vector in from..count.min(from + step) {
            if is_avoidable(vector)? {
                sample.push(vector);
                break;
            }
        }
    }
    Ok(sample)
}

/// Finds the true answers of queries.
fn trials<'v>(
    vectors: &'v VectorStore,
    queries: Vec<(Cow<'v, [f32]>, Option<u32>)>,
) -> Result<Vec<Trial<'v>>, IndexError> {
    let trial = |(query, stored): (Cow<'v, [f32]>, Option<u32>)| {
        let others = others(vectors, stored);
        let filter = VectorFilter {
            allows: &others,
            vectors: vectors.count(),
        };
        let truth = scan::exact(vectors, &query, K, Some(&filter))?;
        Ok(Trial {
            query,
            stored,
            truth,
        })
    };
    queries.into_par_iter().map(trial).collect()
}

/// Whether a vector is of another passage than a stored one.
fn others(vectors: &VectorStore, stored: Option<u32>) -> impl Fn(u32) -> bool {
    let owners = vectors.owners();
    let owner = stored.map(|vector| owners[vector as usize]);
    move |vector| Some(owners[vector as usize]) != owner
}

impl Trial<'_> {
    /// The score of the last passage of the true answer.
    fn last_score(&self) -> Option<f32> {
        self.truth.last().map(|last| last.score)
    }
}

/// The smallest `ef`, from one on, that reaches the recall, or the largest there is.
fn least_ef(
    vectors: &VectorStore,
    links: &Links,
    trials: &[Trial<'_>],
    from: u32,
    recall: f64,
) -> Result<Measured, IndexError> {
    let mut measured = measure(vectors, links, trials, from)?;
    for &ef in LADDER.iter().filter(|&&ef| ef > from) {
        if f64::from(measured.recall) >= recall || ef as usize > 2 * vectors.count() {
            break;
        }
        measured = measure(vectors, links, trials, ef)?;
    }
    Ok(measured)
}

fn measure(
    vectors: &VectorStore,
    links: &Links,
    trials: &[Trial<'_>],
    ef: u32,
) -> Result<Measured, IndexError> {
    let search = |trial: &Trial<'_>| {
        let others = others(vectors, trial.stored);
        let beam = Beam {
            wanted: Some(&others),
            hidden: trial.stored,
            ..Beam::new(ef as usize)
        };
        let coded = QueryCode::new(&trial.query);
        let found = links.search(vectors.codes(), coded.coarse(), &beam)?;
        let best = best_passages(vectors, &trial.query, &coded, found.best, K)?;
        // Among equal scores any vector counts as found.
        let last = trial.last_score().unwrap_or(f32::MAX);
        let hits = best.iter().filter(|hit| hit.score >= last).count();
        Ok((hits, found.compared))
    };
    let searches: Vec<(usize, usize)> = trials
        .par_iter()
        .map(search)
        .collect::<Result<_, IndexError>>()?;
    let wanted: usize = trials.iter().map(|trial| trial.truth.len()).sum();
    let hits: usize = searches.iter().map(|search| search.0).sum();
    let compared: usize = searches.iter().map(|search| search.1).sum();
    Ok(Measured {
        ef,
        recall: if wanted == 0 {
            1.0
        } else {
            hits as f32 / wanted as f32
        },
        evaluations: (compared / trials.len().max(1)) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::graph_record::GraphParameters;
    use crate::segment::graph::build::build;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, e5_vectors, singles, store};

    /// Recall@10 of the graph alone on queries that are not stored, and the calibration's own
    /// measurement.
    fn unseen(mut rows: Vec<Vec<f32>>, queries: usize) -> (f64, Calibration) {
        let queries = rows.split_off(rows.len() - queries);
        let (_home, vectors) = store(&singles(rows));
        let parameters = GraphParameters {
            m: 16,
            ef_construction: 200,
        };
        let links = build(vectors.codes(), &parameters, |_| true).unwrap();
        let calibration = calibrate(&vectors, &links, RECALL).unwrap();
        let mut hits = 0;
        for query in &queries {
            let query = normalised(query, query.len()).unwrap();
            let truth = scan::exact(&vectors, &query, K, None).unwrap();
            let coded = QueryCode::new(&query);
            let beam = Beam::new(calibration.ef_search as usize);
            let found = links
                .search(vectors.codes(), coded.coarse(), &beam)
                .unwrap();
            let best = best_passages(&vectors, &query, &coded, found.best, K).unwrap();
            hits += best.iter().filter(|hit| truth.contains(hit)).count();
        }
        let recall = hits as f64 / (queries.len() * K) as f64;
        println!("recall@10 {recall} where {calibration:?}");
        (recall, calibration)
    }

    #[test]
    fn the_measured_ef_serves_queries_that_it_was_not_measured_with() {
        for (spread, dimension) in [(20, 32), (400, 64), (1, 16)] {
            let (recall, measured) = unseen(clustered(7, 6_200, dimension, spread), 200);
            assert!(f64::from(measured.recall_at_10) >= RECALL);
            assert!(recall >= 0.95, "{recall}");
        }
    }

    #[test]
    fn the_measured_ef_serves_real_embeddings() {
        let Some(rows) = e5_vectors() else {
            println!("skipped: the sample of E5 embeddings is not here");
            return;
        };
        let (recall, _) = unseen(rows, 100);
        assert!(recall >= 0.95, "{recall}");
    }

    #[test]
    fn the_measured_ef_serves_tight_clusters_that_come_one_after_the_other() {
        let (count, centres) = (10_000, 20);
        let middles = clustered(7, centres, 48, centres);
        let mut rows = clustered(8, count + 200, 48, 1);
        for (n, row) in rows.iter_mut().enumerate() {
            let middle = &middles[if n < count {
                n * centres / count
            } else {
                n % centres
            }];
            for (x, m) in row.iter_mut().zip(middle) {
                *x = m + 0.03 * *x;
            }
        }
        let (recall, _) = unseen(rows, 200);
        assert!(recall >= 0.95, "{recall}");
    }
}
