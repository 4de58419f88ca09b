//! Chooses the `ef` that reaches a recall, by searching for vectors that the index holds.

use rayon::prelude::*;

use crate::error::IndexError;
use crate::format::graph_record::Calibration;
use crate::segment::codes::QueryCode;
use crate::segment::graph::links::Links;
use crate::segment::search::candidates::best_passages;
use crate::segment::search::scan;
use crate::segment::search::score::{ScoredVector, VectorFilter};
use crate::segment::search::walk::{Adjacency, Beam};
use crate::segment::vectors::VectorStore;

/// The recall@10 to reach. The promise to users is .95; the margin is for queries that differ from
/// those of the measurement.
pub(crate) const RECALL: f64 = 0.98;

/// The recall@10 that a graph must reach with some `ef` to be used at all.
pub(crate) const LEAST_RECALL: f32 = 0.95;

const K: usize = 10;
// Queries of the measurement: the standard error of a recall of .98 is then about .003.
const QUERIES: usize = 256;
const LADDER: [u32; 14] = [
    16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048,
];

/// One query of the measurement and its true answer.
struct Trial<'v> {
    vector: u32,
    query: &'v [f32],
    truth: Vec<ScoredVector>,
}

/// The smallest `ef` that reaches the recall, or the largest there is.
///
/// The queries are vectors of the index. Each is searched for as if it were not in the index: the
/// walk does not pass it, and its passage does not count.
pub(crate) fn calibrate(
    vectors: &VectorStore,
    links: &Links,
    recall: f64,
) -> Result<Calibration, IndexError> {
    let count = vectors.count() as u32;
    let step = count.div_ceil(QUERIES as u32).max(1);
    // A walk cannot avoid a vector of the upper layers, or one that leads to its copies.
    let avoidable = |vector: u32| -> Result<bool, IndexError> {
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
            if avoidable(vector)? {
                sample.push(vector);
                break;
            }
        }
    }
    let trials: Vec<Trial> = sample
        .into_par_iter()
        .map(|vector| {
            let query = vectors.row(vector)?;
            let owners = vectors.owners();
            let others = |v: u32| owners[v as usize] != owners[vector as usize];
            let filter = VectorFilter {
                allows: &others,
                vectors: vectors.count(),
            };
            let truth = scan::exact(vectors, query, K, Some(&filter))?;
            Ok(Trial {
                vector,
                query,
                truth,
            })
        })
        .collect::<Result<_, IndexError>>()?;
    let mut measured = measure(vectors, links, &trials, LADDER[0])?;
    for ef in &LADDER[1..] {
        if f64::from(measured.recall_at_10) >= recall || *ef > 2 * count {
            break;
        }
        measured = measure(vectors, links, &trials, *ef)?;
    }
    Ok(measured)
}

fn measure(
    vectors: &VectorStore,
    links: &Links,
    trials: &[Trial<'_>],
    ef: u32,
) -> Result<Calibration, IndexError> {
    let owners = vectors.owners();
    let searches: Vec<(usize, usize)> = trials
        .par_iter()
        .map(
            |Trial {
                 vector,
                 query,
                 truth,
             }| {
                let others = |v: u32| owners[v as usize] != owners[*vector as usize];
                let beam = Beam {
                    wanted: Some(&others),
                    hidden: Some(*vector),
                    ..Beam::new(ef as usize)
                };
                let coded = QueryCode::new(query);
                let found = links.search(vectors.codes(), coded.coarse(), &beam)?;
                let best = best_passages(vectors, query, &coded, found.best, K)?;
                // Among equal scores any vector counts as found.
                let last = truth.last().map_or(f32::MAX, |last| last.score);
                let hits = best.iter().filter(|hit| hit.score >= last).count();
                Ok((hits, found.compared))
            },
        )
        .collect::<Result<_, IndexError>>()?;
    let sum = |numbers: &mut dyn Iterator<Item = usize>| numbers.sum::<usize>() as f64;
    let wanted = sum(&mut trials.iter().map(|trial| trial.truth.len()));
    let compared = sum(&mut searches.iter().map(|search| search.1));
    Ok(Calibration {
        ef_search: ef,
        recall_at_10: if wanted == 0.0 {
            1.0
        } else {
            (sum(&mut searches.iter().map(|search| search.0)) / wanted) as f32
        },
        evaluations: (compared / trials.len().max(1) as f64) as u32,
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
