//! Passages that are in no segment yet: in memory, scanned while they are few, and from
//! [`DeltaOptions::graph_from`] vectors on searched through a graph that all snapshots share.

use std::collections::HashMap;
use std::sync::Arc;

use crate::filter::Filter;
use crate::live::change::DeltaPassage;
use crate::live::delta_graph::{DeltaGraph, NewVector};
use crate::segment::passages::IdDigest;
use crate::segment::search::score::{ScoredVector, dot};

/// Vectors in the delta from which on it becomes a segment. A scan of so many in f32 takes about a
/// millisecond at 896 dimensions.
pub const DELTA_VECTORS: usize = 4096;

/// Vectors from which on a part of the delta gets a graph. The number is chosen, not measured.
pub const DELTA_GRAPH_VECTORS: usize = 2048;

/// When the delta gets a graph, and when it becomes a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaOptions {
    /// Vectors from which on a merge makes a segment of the delta.
    pub merge_from: usize,
    /// Vectors from which on the delta is searched through a graph; with `usize::MAX` it is always
    /// scanned.
    pub graph_from: usize,
}

impl Default for DeltaOptions {
    /// [`DELTA_VECTORS`] and [`DELTA_GRAPH_VECTORS`].
    fn default() -> Self {
        Self {
            merge_from: DELTA_VECTORS,
            graph_from: DELTA_GRAPH_VECTORS,
        }
    }
}

// Nodes that a search through a graph keeps in view, at least.
const EF: usize = 224;
// A walk is only taken where at least one of so many nodes is allowed: a filtered walk goes on until it
// has found enough of them. The number is chosen, not measured.
const RAREST: usize = 8;
// Rows that a batch of changes inserts besides its own while the graph lags behind.
const CATCH_UP: usize = 256;

/// Passages in the order in which they came. Cloned for each batch of changes, so that searches keep
/// the one they began with; the graphs are shared.
#[derive(Clone)]
pub(crate) struct Delta {
    // One that was deleted or replaced leaves its row empty.
    passages: Vec<Option<Arc<DeltaPassage>>>,
    rows: HashMap<IdDigest, u32>,
    numbers: usize,
    // Never empty; the first begins at row 0, and each ends where the next begins.
    parts: Vec<Part>,
    graph_from: usize,
    // Rows that there were when a graph was last filled.
    filled_at: usize,
}

/// Rows that share a graph. A merge begins a new part, so that what comes while it runs has a graph of
/// its own already when the merge drops the others.
#[derive(Clone, Default)]
struct Part {
    first_row: usize,
    /// How many rows from the first on are in the graph; this snapshot sees no later ones of it.
    graph_rows: usize,
    /// How many passages of these rows are not deleted.
    graph_passages: usize,
    graph: Option<Arc<DeltaGraph>>,
}

/// A passage that was found: the score of its best vector, the passage, and which of its vectors that is.
pub(crate) type DeltaHit<'d> = (f32, &'d DeltaPassage, u32);

impl Delta {
    pub(crate) fn new(graph_from: usize) -> Self {
        Self {
            passages: Vec::new(),
            rows: HashMap::new(),
            numbers: 0,
            parts: vec![Part::default()],
            graph_from,
            filled_at: 0,
        }
    }

    /// Number of rows, which is the row of the next passage.
    pub(crate) fn rows(&self) -> usize {
        self.passages.len()
    }

    /// Number of passages.
    pub(crate) fn passages(&self) -> usize {
        self.rows.len()
    }

    /// Numbers that are held in vectors.
    pub(crate) fn numbers(&self) -> usize {
        self.numbers
    }

    pub(crate) fn push(&mut self, passage: Arc<DeltaPassage>) {
        self.numbers += passage.vectors.len();
        self.rows.insert(passage.digest, self.passages.len() as u32);
        self.passages.push(Some(passage));
    }

    /// Takes out the passage with an id's digest; whether there was one.
    pub(crate) fn remove(&mut self, id: &IdDigest) -> bool {
        let Some(row) = self.rows.remove(id) else {
            return false;
        };
        let row = row as usize;
        if let Some(passage) = self.passages[row].take() {
            self.numbers -= passage.vectors.len();
        }
        let part = self.parts.partition_point(|part| part.first_row <= row);
        if let Some(part) = self.parts[..part].last_mut()
            && row - part.first_row < part.graph_rows
        {
            part.graph_passages -= 1;
        }
        true
    }

    /// From the next row on there is another part, with a graph of its own.
    pub(crate) fn begin_part(&mut self) {
        let first_row = self.rows();
        if self
            .parts
            .last()
            .is_none_or(|part| part.first_row < first_row)
        {
            self.parts.push(Part {
                first_row,
                ..Part::default()
            });
        }
    }

    /// Drops everything before a row.
    pub(crate) fn drop_before(&mut self, row: usize) {
        let rest = self.passages.split_off(row.min(self.passages.len()));
        let mut parts = std::mem::take(&mut self.parts);
        parts.retain(|part| part.first_row >= row);
        parts.iter_mut().for_each(|part| part.first_row -= row);
        if parts.first().is_none_or(|part| part.first_row > 0) {
            parts.insert(0, Part::default());
        }
        *self = Self {
            parts,
            filled_at: self.filled_at.saturating_sub(row),
            ..Self::new(self.graph_from)
        };
        for passage in rest {
            match passage {
                Some(passage) => self.push(passage),
                None => self.passages.push(None),
            }
        }
    }

    /// Whether there are rows that [`Delta::fill_graph`] has not looked at or not inserted yet.
    pub(crate) fn lags(&self) -> bool {
        let behind =
            |part: &Part| part.graph.is_some() && part.first_row + part.graph_rows < self.rows();
        self.filled_at < self.rows() || self.parts.last().is_some_and(behind)
    }

    /// Inserts the rows that are new into the graph of the last part, if that is large enough to have
    /// one. A part that has just become so catches up over several batches, so that none of them takes
    /// much longer than the others; until then the rest is scanned.
    pub(crate) fn fill_graph(&mut self, dimension: usize) {
        let end = self.rows();
        let new_rows = end - self.filled_at.min(end);
        self.filled_at = end;
        let Some(part) = self.parts.last_mut() else {
            return;
        };
        let from = part.first_row + part.graph_rows;
        if part.graph.is_none() {
            let passages = self.passages[part.first_row..].iter().flatten();
            let numbers: usize = passages.map(|passage| passage.vectors.len()).sum();
            if numbers / dimension.max(1) < self.graph_from {
                return;
            }
        }
        let to = end.min(from + new_rows + new_rows.max(CATCH_UP));
        let mut vectors = Vec::new();
        for (row, passage) in (part.graph_rows as u32..).zip(&self.passages[from..to]) {
            let Some(passage) = passage else { continue };
            part.graph_passages += 1;
            let units = passage.vectors.chunks_exact(dimension);
            vectors.extend(units.map(|unit| NewVector { row, unit }));
        }
        let graph = part
            .graph
            .get_or_insert_with(|| Arc::new(DeltaGraph::new()));
        graph.insert(&vectors);
        part.graph_rows = to - part.first_row;
    }

    pub(crate) fn get(&self, row: u32) -> Option<&Arc<DeltaPassage>> {
        self.passages.get(row as usize)?.as_ref()
    }

    pub(crate) fn find(&self, id: &IdDigest) -> Option<u32> {
        self.rows.get(id).copied()
    }

    /// All passages with their rows, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<DeltaPassage>)> {
        let passages = self.passages.iter().enumerate();
        passages.filter_map(|(row, passage)| Some((row as u32, passage.as_ref()?)))
    }

    /// The best `k` passages that fit the filter, best first; of equal scores the one that was put in
    /// earlier first. With `exact` every vector is compared.
    pub(crate) fn search(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&Filter>,
        exact: bool,
    ) -> Vec<DeltaHit<'_>> {
        if k == 0 {
            return Vec::new();
        }
        let ends = self.parts.iter().skip(1).map(|part| part.first_row);
        let mut best: Vec<DeltaHit<'_>> = Vec::new();
        for (part, end) in self.parts.iter().zip(ends.chain([self.rows()])) {
            let mut scanned_from = part.first_row;
            if !exact && let Some(rows) = self.near(part, query, k, filter) {
                scanned_from += part.graph_rows;
                let near = rows.iter().filter_map(|&row| self.get(row));
                best.extend(near.filter_map(|passage| score(passage, query)));
            }
            let scanned = self.passages[scanned_from..end].iter().flatten();
            let allowed = scanned.filter(|passage| matches(filter, passage));
            best.extend(allowed.filter_map(|passage| score(passage, query)));
        }
        // Rows come in order, and a stable sort keeps it among equal scores.
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best.truncate(k);
        best
    }

    /// Rows near a query of those that a part's graph holds, ascending. `None` where they are better
    /// scanned.
    fn near(
        &self,
        part: &Part,
        query: &[f32],
        k: usize,
        filter: Option<&Filter>,
    ) -> Option<Vec<u32>> {
        let graph = part.graph.as_ref()?;
        let rows = &self.passages[part.first_row..part.first_row + part.graph_rows];
        let vectors = self.numbers / query.len().max(1);
        let per_passage = vectors.div_ceil(self.passages().max(1));
        let ef = EF.max(k.saturating_mul(2).saturating_mul(per_passage));
        let is_worth_it = |passages: usize| {
            let allowed = passages.saturating_mul(per_passage);
            allowed >= ef.saturating_mul(RAREST) && allowed >= graph.nodes() / RAREST
        };
        // A filter is compared with every row once; without one only rows that the walk meets are looked at.
        let allowed: Option<Vec<bool>> = filter.map(|_| {
            let allows = |passage: &Option<Arc<DeltaPassage>>| {
                passage.as_ref().is_some_and(|p| matches(filter, p))
            };
            rows.iter().map(allows).collect()
        });
        let passages = allowed.as_ref().map_or(part.graph_passages, |allowed| {
            allowed.iter().filter(|allowed| **allowed).count()
        });
        if !is_worth_it(passages) {
            return None;
        }
        let near = graph.nearest(query, k, ef, |row| {
            let row = row as usize;
            match &allowed {
                Some(allowed) => allowed.get(row) == Some(&true),
                None => rows.get(row).is_some_and(Option::is_some),
            }
        });
        // The graph may lead to too few: a scan then finds them all.
        if near.len() < k.min(passages) {
            return None;
        }
        let first_row = part.first_row as u32;
        Some(near.into_iter().map(|row| first_row + row).collect())
    }
}

fn matches(filter: Option<&Filter>, passage: &DeltaPassage) -> bool {
    filter.is_none_or(|filter| filter.matches(passage.passage.metadata.as_ref()))
}

/// The best vector of a passage.
fn score<'d>(passage: &'d Arc<DeltaPassage>, query: &[f32]) -> Option<DeltaHit<'d>> {
    let vectors = passage.vectors.chunks_exact(query.len()).zip(0..);
    let scored = vectors.map(|(vector, part)| ScoredVector {
        score: dot(query, vector),
        vector: part,
    });
    let best = scored.min_by(ScoredVector::best_first)?;
    Some((best.score, passage.as_ref(), best.vector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::change::{Change, CheckedChange};
    use crate::segment::passages::{Passage, digest};
    use crate::testing::clustered;

    const DIMENSION: usize = 24;

    fn push(delta: &mut Delta, numbers: std::ops::Range<usize>, vectors: &[Vec<f32>]) {
        for number in numbers {
            let passage = Passage {
                id: number.to_string(),
                title: String::new(),
                text: String::new(),
                url: None,
                metadata: None,
                part: None,
            };
            let change = Change::Upsert {
                passage,
                vectors: vec![vectors[number].clone()],
            };
            match change.prepare(DIMENSION).unwrap() {
                CheckedChange::Upsert(passage) => delta.push(passage),
                other => panic!("{other:?}"),
            }
        }
        delta.fill_graph(DIMENSION);
    }

    fn numbers(delta: &Delta, query: &[f32], k: usize, exact: bool) -> Vec<usize> {
        let query = crate::segment::vectors::normalised(query, DIMENSION).unwrap();
        let hits = delta.search(&query, k, None, exact).into_iter();
        hits.map(|hit| hit.1.passage.id.parse().unwrap()).collect()
    }

    #[test]
    fn a_snapshot_sees_only_the_beginning_of_the_graph_that_it_shares() {
        let vectors = clustered(11, 6_000, DIMENSION, 10);
        let mut delta = Delta::new(500);
        for from in (0..3_000).step_by(500) {
            push(&mut delta, from..from + 500, &vectors);
        }
        let before = delta.clone();
        for from in (3_000..6_000).step_by(500) {
            push(&mut delta, from..from + 500, &vectors);
        }
        delta.remove(&digest("7"));
        let (old, new) = (&before.parts[0], &delta.parts[0]);
        let shared = old.graph.as_ref().zip(new.graph.as_ref());
        assert!(shared.is_some_and(|(old, new)| Arc::ptr_eq(old, new)));
        assert_eq!((old.graph_rows, new.graph_rows), (3_000, 6_000));
        let mut hits = 0;
        for query in vectors.iter().skip(3_000).step_by(60) {
            let query = crate::segment::vectors::normalised(query, DIMENSION).unwrap();
            // It walks: the graph is not passed over.
            assert!(before.near(old, &query, 10, None).is_some());
            let found = numbers(&before, &query, 10, false);
            assert!(found.iter().all(|&number| number < 3_000), "{found:?}");
            let exact = numbers(&before, &query, 10, true);
            hits += exact.iter().filter(|n| found.contains(n)).count();
        }
        assert!(hits >= 475, "{hits} of 500");
        assert_eq!(numbers(&before, &vectors[7], 1, false), [7]);
        assert_ne!(numbers(&delta, &vectors[7], 1, false), [7]);
        assert_eq!(numbers(&delta, &vectors[5_999], 1, false), [5_999]);
    }

    #[test]
    fn what_comes_while_a_merge_runs_keeps_its_graph_when_the_rest_is_dropped() {
        let vectors = clustered(12, 4_000, DIMENSION, 10);
        let mut delta = Delta::new(500);
        for from in (0..2_000).step_by(500) {
            push(&mut delta, from..from + 500, &vectors);
        }
        let frozen = delta.rows();
        delta.begin_part();
        delta.begin_part();
        for from in (2_000..4_000).step_by(500) {
            push(&mut delta, from..from + 500, &vectors);
        }
        delta.remove(&digest("2001"));
        assert_eq!(delta.parts.len(), 2);
        let graph = delta.parts[1].graph.clone();
        delta.drop_before(frozen);
        assert_eq!(delta.parts.len(), 1);
        assert_eq!(delta.parts[0].graph_passages, 1_999);
        let kept = delta.parts[0].graph.as_ref().zip(graph.as_ref());
        assert!(kept.is_some_and(|(kept, graph)| Arc::ptr_eq(kept, graph)));
        for number in (2_000..4_000).step_by(50) {
            assert_eq!(numbers(&delta, &vectors[number], 1, false), [number]);
        }
        assert_ne!(numbers(&delta, &vectors[2_001], 1, false), [2_001]);
        assert_eq!(delta.find(&digest("1")), None);
    }
}
