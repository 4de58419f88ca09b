//! How the delta is searched: graphs that are large enough are walked, and what they do not hold is
//! scanned ([`crate::live::delta_scan`]). Either way gives candidates, which are scored in f32.

use std::ops::Range;

use crate::filter::Filter;
use crate::live::change::DeltaPassage;
use crate::live::delta::{Delta, Part};
use crate::live::delta_graph::{DeltaGraph, EF};
use crate::segment::codes::QueryCode;
use crate::segment::search::score::{ScoredVector, dot};

// A walk is only taken where at least one of so many nodes is allowed: a filtered walk goes on until it
// has found enough of them. The number is chosen, not measured.
const RAREST: usize = 8;
// Vectors from which on a scan of sketches takes less time than a scan of codes, which is exact. At 896
// dimensions codes take 31 µs for 1,000 and 58 for 2,000; sketches take 35 and 44, and 58 and 102 where
// nothing is near the query.
const SKETCHES_FROM: usize = 1_000;

/// A passage that was found: the score of its best vector, the passage, and which of its vectors that is.
pub(crate) type DeltaHit<'d> = (f32, &'d DeltaPassage, u32);

/// What is looked for.
pub(crate) struct DeltaQuery<'q> {
    /// A unit vector: (dimension).
    pub(crate) unit: &'q [f32],
    pub(crate) coded: QueryCode,
    pub(crate) k: usize,
    pub(crate) filter: Option<&'q Filter>,
    /// Passages that score less need not be found.
    pub(crate) at_least: f32,
}

impl Delta {
    /// The best `k` passages that fit the filter, best first; of equal scores the one that was put in
    /// earlier first. With `exact` only codes are scanned, and what is found is right to the bit.
    pub(crate) fn search(&self, query: &DeltaQuery<'_>, exact: bool) -> Vec<DeltaHit<'_>> {
        if query.k == 0 {
            return Vec::new();
        }
        let mut candidates: Vec<u32> = Vec::new();
        let mut rest: Vec<Range<usize>> = Vec::new();
        for (part, rows) in self.parts() {
            let mut scanned = rows.clone();
            if !exact && let Some(graph) = part.graph() {
                // The graph may grow while it is walked; what is scanned begins where this says.
                let walked = rows.start..rows.end.min(rows.start + graph.rows());
                if let Some(near) = self.walk(graph, part, walked.clone(), query) {
                    candidates.extend(near);
                    scanned.start = walked.end;
                }
            }
            rest.push(scanned);
        }
        let scanned: usize = rest.iter().map(Range::len).sum();
        candidates.extend(if exact || scanned < SKETCHES_FROM {
            self.scan_codes(rest, query)
        } else {
            self.scan_sketches(rest, query)
        });
        candidates.sort_unstable();
        let passages = candidates.iter().filter_map(|&row| self.get(row));
        let mut best: Vec<_> = passages.filter_map(|p| score(p, query.unit)).collect();
        // Rows come in order, and a stable sort keeps it among equal scores.
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best.truncate(query.k);
        best
    }

    /// Rows near a query of those that a graph holds, ascending. `None` where they are better scanned.
    fn walk(
        &self,
        graph: &DeltaGraph,
        part: &Part,
        rows: Range<usize>,
        query: &DeltaQuery<'_>,
    ) -> Option<Vec<u32>> {
        let passage = |row: usize| self.get((rows.start + row) as u32);
        let vectors = self.numbers() / self.dimension().max(1);
        let per_passage = vectors.div_ceil(self.passages().max(1));
        let ef = EF.max(query.k.saturating_mul(2).saturating_mul(per_passage));
        let is_worth_it = |passages: usize| {
            let allowed = passages.saturating_mul(per_passage);
            allowed >= self.graph_from().max(ef.saturating_mul(RAREST))
                && allowed >= graph.nodes() / RAREST
        };
        // A filter is compared with every row once; without one only rows that the walk meets are looked at.
        let allowed: Option<Vec<bool>> = query.filter.map(|_| {
            let allows = |row| passage(row).is_some_and(|passage| query.allows(passage));
            (0..rows.len()).map(allows).collect()
        });
        let allowed_passages = allowed.as_ref().map_or(
            // Some of the removed ones may be further on.
            rows.len().saturating_sub(part.removed),
            |allowed| allowed.iter().filter(|allowed| **allowed).count(),
        );
        if !is_worth_it(allowed_passages) {
            return None;
        }
        let near = graph.nearest(query.coded.coarse(), query.k, ef, |row| {
            let row = row as usize;
            match &allowed {
                Some(allowed) => allowed.get(row) == Some(&true),
                None => row < rows.len() && passage(row).is_some(),
            }
        })?;
        // The graph may lead to too few: a scan then finds them all.
        if near.len() < query.k.min(allowed_passages) {
            return None;
        }
        Some(
            near.into_iter()
                .map(|row| rows.start as u32 + row)
                .collect(),
        )
    }
}

impl<'q> DeltaQuery<'q> {
    pub(crate) fn new(unit: &'q [f32], k: usize, filter: Option<&'q Filter>) -> Self {
        Self {
            unit,
            coded: QueryCode::new(unit),
            k,
            filter,
            at_least: f32::NEG_INFINITY,
        }
    }

    pub(crate) fn allows(&self, passage: &DeltaPassage) -> bool {
        self.filter
            .is_none_or(|filter| filter.matches(passage.passage.metadata.as_ref()))
    }
}

/// The best vector of a passage.
fn score<'d>(passage: &'d DeltaPassage, query: &[f32]) -> Option<DeltaHit<'d>> {
    let vectors = passage.vectors.chunks_exact(query.len()).zip(0..);
    let scored = vectors.map(|(vector, part)| ScoredVector {
        score: dot(query, vector),
        vector: part,
    });
    let best = scored.min_by(ScoredVector::best_first)?;
    Some((best.score, passage, best.vector))
}
