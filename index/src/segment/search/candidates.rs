//! Selects the best passages by their true scores from estimates with error bounds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::error::IndexError;
use crate::segment::codes::{Estimate, QueryCode};
use crate::segment::search::score::{PART, ScoredVector, dot};
use crate::segment::search::walk::RankedVector;
use crate::segment::vectors::VectorStore;

/// A vector that may be among the best, and its estimated score with its bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) vector: u32,
    pub(crate) estimate: Estimate,
}

/// Collects the candidates that may be the best vector of one of the best `k` passages.
pub(crate) struct CandidateSet {
    k: usize,
    /// Vectors that score less are not needed.
    at_least: f32,
    /// Lower bounds of the scores of the best `k` passages before the last one met. The worst is on
    /// top.
    best: BinaryHeap<Reverse<RankedVector>>,
    /// The last passage met, and a lower bound of its score.
    last: Option<(u32, f32)>,
    candidates: Vec<Candidate>,
}

impl CandidateSet {
    pub(crate) fn new(k: usize) -> Self {
        Self::of_scores_from(f32::NEG_INFINITY, k)
    }

    /// For those passages only whose score is not less than one.
    pub(crate) fn of_scores_from(at_least: f32, k: usize) -> Self {
        Self {
            k,
            at_least,
            best: BinaryHeap::new(),
            last: None,
            candidates: Vec::new(),
        }
    }

    /// A vector that scores less is not needed: `k` passages are known to reach this score.
    pub(crate) fn reached(&self) -> f32 {
        match self.best.peek() {
            Some(Reverse(worst)) if self.best.len() == self.k => worst.score().max(self.at_least),
            _ if self.k == 0 => f32::INFINITY,
            _ => self.at_least,
        }
    }

    /// Takes a candidate and the passage that owns its vector. The vectors of a passage come one after
    /// the other.
    pub(crate) fn offer(&mut self, owner: u32, candidate: Candidate) {
        let at_least = candidate.estimate.at_least();
        match &mut self.last {
            Some((last, best)) if *last == owner => *best = best.max(at_least),
            _ => {
                self.count_last();
                self.last = Some((owner, at_least));
            }
        }
        self.candidates.push(candidate);
    }

    fn count_last(&mut self) {
        let Some((_, at_least)) = self.last.take() else {
            return;
        };
        if at_least > self.reached() {
            self.best.push(Reverse(RankedVector::new(at_least, 0)));
            if self.best.len() > self.k {
                self.best.pop();
            }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Candidate> {
        self.count_last();
        let reached = self.reached();
        self.candidates.retain(|c| c.estimate.at_most() >= reached);
        self.candidates
    }
}

/// The best `k` passages among the candidates, ascending by vector, each by its best vector in f32.
/// The result is exact if the bounds of the estimates are correct.
pub(crate) fn rescore(
    vectors: &VectorStore,
    query: &[f32],
    candidates: Vec<Candidate>,
    k: usize,
) -> Result<Vec<ScoredVector>, IndexError> {
    let owners = vectors.owners();
    let mut possible = CandidateSet::new(k);
    for candidate in candidates {
        possible.offer(owners[candidate.vector as usize], candidate);
    }
    let candidates = possible.finish();
    let score = |candidate: &Candidate| -> Result<ScoredVector, IndexError> {
        let vector = candidate.vector;
        let score = dot(query, vectors.row(vector)?);
        Ok(ScoredVector { score, vector })
    };
    let scores: Vec<ScoredVector> = if candidates.len() < PART {
        candidates.iter().map(score).collect::<Result<_, _>>()?
    } else {
        candidates.par_iter().map(score).collect::<Result<_, _>>()?
    };
    let mut best: Vec<ScoredVector> = scores
        .chunk_by(|a, b| owners[a.vector as usize] == owners[b.vector as usize])
        .filter_map(|passage| passage.iter().copied().min_by(ScoredVector::best_first))
        .collect();
    if k < best.len() {
        best.select_nth_unstable_by(k, ScoredVector::best_first);
        best.truncate(k);
    }
    best.sort_unstable_by(ScoredVector::best_first);
    Ok(best)
}

/// The best `k` passages among the vectors that a walk has found, each by its best vector in f32.
pub(crate) fn best_passages(
    vectors: &VectorStore,
    query: &[f32],
    coded: &QueryCode,
    found: Vec<RankedVector>,
    k: usize,
) -> Result<Vec<ScoredVector>, IndexError> {
    let mut candidates = found
        .into_iter()
        .map(|ranked| {
            let vector = ranked.vector();
            let [[_, error]] = vectors.codes().scales(vector..vector + 1)? else {
                return Err(vectors.codes().damaged("it is too short"));
            };
            let within = coded.coarse_probably_within(*error);
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
