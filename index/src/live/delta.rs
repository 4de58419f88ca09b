//! Passages that are in no segment yet. They are in memory; how they are searched is in
//! [`crate::live::delta_search`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::live::change::DeltaPassage;
use crate::live::delta_graph::{DeltaGraph, NewVector};
use crate::live::delta_rows::DeltaRows;
use crate::live::delta_vectors::DeltaVectors;
use crate::segment::codes::Code;
use crate::segment::passages::IdDigest;

// Rows that one step inserts into a graph: a search scans those that no finished step has inserted.
const STEP: usize = 64;

/// Passages in the order in which they came. Cloned for each batch of changes, so that searches keep
/// the one they began with; the graphs are shared.
#[derive(Clone)]
pub(crate) struct Delta {
    // One that was deleted or replaced leaves its row empty.
    passages: DeltaRows,
    rows: HashMap<IdDigest, u32>,
    numbers: usize,
    // Never empty; the first begins at row 0, and each ends where the next begins.
    parts: Vec<Part>,
    vectors: DeltaVectors,
    graph_from: usize,
}

/// Rows that share a graph. A merge begins a new part, so that what comes while it runs has a graph of
/// its own already when the merge drops the others.
#[derive(Clone, Default)]
pub(crate) struct Part {
    pub(crate) first_row: usize,
    /// How many of its rows were deleted or replaced.
    pub(crate) removed: usize,
    // Numbers in the vectors of the other rows.
    numbers: usize,
    // Set once the part is large enough.
    graph: Arc<OnceLock<DeltaGraph>>,
}

impl Part {
    /// The graph over the first rows of this part, once there is one.
    pub(crate) fn graph(&self) -> Option<&DeltaGraph> {
        self.graph.get()
    }
}

impl Delta {
    pub(crate) fn new(dimension: usize, graph_from: usize) -> Self {
        Self {
            passages: DeltaRows::default(),
            rows: HashMap::new(),
            numbers: 0,
            parts: vec![Part::default()],
            vectors: DeltaVectors::new(dimension),
            graph_from,
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
        let numbers = passage.vectors.len();
        self.numbers += numbers;
        if let Some(part) = self.parts.last_mut() {
            part.numbers += numbers;
        }
        let row = self.passages.len();
        self.vectors.push(row, &passage.vectors);
        self.rows.insert(passage.digest, row as u32);
        self.passages.push(passage);
    }

    /// Takes out the passage with an id's digest; whether there was one.
    pub(crate) fn remove(&mut self, id: &IdDigest) -> bool {
        let Some(row) = self.rows.remove(id) else {
            return false;
        };
        let row = row as usize;
        let numbers = self.passages.take(row).map_or(0, |p| p.vectors.len());
        self.numbers -= numbers;
        let parts = self.parts.partition_point(|part| part.first_row <= row);
        if let Some(part) = self.parts[..parts].last_mut() {
            part.numbers -= numbers;
            part.removed += 1;
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
        let row = row.min(self.rows());
        self.vectors.drop_before(row);
        self.passages.drop_before(row);
        let mut parts = std::mem::take(&mut self.parts);
        parts.retain(|part| part.first_row >= row);
        parts.iter_mut().for_each(|part| part.first_row -= row);
        if parts.first().is_none_or(|part| part.first_row > 0) {
            parts.insert(0, Part::default());
        }
        let rest = || self.passages.iter();
        let rows = rest().map(|(row, passage)| (passage.digest, row)).collect();
        self.numbers = rest().map(|(_, passage)| passage.vectors.len()).sum();
        self.rows = rows;
        self.parts = parts;
    }

    /// Numbers in a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.vectors.dimension()
    }

    /// The vectors of all rows, also of those that are empty now.
    pub(crate) fn vectors(&self) -> &DeltaVectors {
        &self.vectors
    }

    /// Vectors from which on a graph is walked.
    pub(crate) fn graph_from(&self) -> usize {
        self.graph_from
    }

    /// The parts and their rows, in order.
    pub(crate) fn parts(&self) -> impl DoubleEndedIterator<Item = (&Part, Range<usize>)> {
        let all = &self.parts;
        (0..all.len()).map(move |n| {
            let end = all.get(n + 1).map_or(self.rows(), |next| next.first_row);
            (&all[n], all[n].first_row..end)
        })
    }

    /// Inserts some rows into a graph that lacks them; false if no graph lacks any. The newest part
    /// comes first, since a merge drops the others sooner. Only one thread may call it at a time.
    pub(crate) fn grow_graph(&self) -> bool {
        for (part, rows) in self.parts().rev() {
            if part.graph().is_none() && !self.deserves_graph(part) {
                continue;
            }
            let graph = part.graph.get_or_init(DeltaGraph::new);
            let done = graph.rows();
            let to = rows.len().min(done + STEP);
            if done >= to {
                continue;
            }
            let first = rows.start as u32;
            let codes = self.vectors.codes(rows.start + done..rows.start + to);
            let vectors = codes.filter(|&(row, _)| self.get(row).is_some()).map(
                |(row, (numbers, [scale, _]))| NewVector {
                    row: row - first,
                    code: Code { numbers, scale },
                },
            );
            graph.insert(vectors, to);
            return true;
        }
        false
    }

    fn deserves_graph(&self, part: &Part) -> bool {
        part.numbers / self.dimension().max(1) >= self.graph_from / 2
    }

    /// How many rows the graphs hold.
    pub(crate) fn rows_in_graphs(&self) -> usize {
        let in_graph = |(part, rows): (&Part, Range<usize>)| {
            part.graph().map_or(0, |graph| graph.rows().min(rows.len()))
        };
        self.parts().map(in_graph).sum()
    }

    /// The passage of a row, unless it was deleted or replaced.
    pub(crate) fn get(&self, row: u32) -> Option<&Arc<DeltaPassage>> {
        self.passages.get(row as usize)
    }

    pub(crate) fn find(&self, id: &IdDigest) -> Option<u32> {
        self.rows.get(id).copied()
    }

    /// All passages with their rows, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<DeltaPassage>)> {
        self.passages.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::delta_search::DeltaQuery;
    use crate::segment::passages::digest;
    use crate::segment::search::score::dot;
    use crate::segment::vectors::normalised;
    use crate::testing::{clustered, delta_passage};

    const DIMENSION: usize = 24;

    fn push(delta: &mut Delta, numbers: Range<usize>, vectors: &[Vec<f32>]) {
        for number in numbers {
            delta.push(delta_passage(number, vec![vectors[number].clone()], None));
        }
    }

    fn grow_all(delta: &Delta) {
        while delta.grow_graph() {}
    }

    fn numbers(delta: &Delta, query: &[f32], k: usize, exact: bool) -> Vec<usize> {
        let query = normalised(query, DIMENSION).unwrap();
        let hits = delta.search(&DeltaQuery::new(&query, k, None), exact);
        let hits = hits.into_iter();
        hits.map(|hit| hit.1.passage.id.parse().unwrap()).collect()
    }

    /// Of 500, how many of the ten best of a scan are found for 50 queries.
    fn found(delta: &Delta, vectors: &[Vec<f32>]) -> usize {
        let mut hits = 0;
        for query in vectors.iter().step_by(vectors.len() / 50).take(50) {
            let found = numbers(delta, query, 10, false);
            let exact = numbers(delta, query, 10, true);
            hits += exact.iter().filter(|n| found.contains(n)).count();
        }
        hits
    }

    #[test]
    fn an_exact_search_finds_what_scoring_every_vector_finds() {
        let vectors = clustered(10, 5_000, DIMENSION, 10);
        let mut delta = Delta::new(DIMENSION, 500);
        push(&mut delta, 0..5_000, &vectors);
        grow_all(&delta);
        delta.remove(&digest("4"));
        for query in vectors.iter().step_by(250) {
            let query = normalised(query, DIMENSION).unwrap();
            let score = |passage: &DeltaPassage| dot(&query, &passage.vectors);
            let mut plain: Vec<_> = delta.iter().map(|(row, p)| (score(p), row)).collect();
            plain.sort_by(|a, b| b.0.total_cmp(&a.0));
            let hits = delta.search(&DeltaQuery::new(&query, 10, None), true);
            let hits: Vec<_> = hits
                .iter()
                .map(|hit| (hit.0, delta.find(&hit.1.digest).unwrap()))
                .collect();
            assert_eq!(hits, plain[..10]);
        }
    }

    #[test]
    fn a_snapshot_finds_its_own_passages_through_a_graph_that_has_grown_since() {
        let vectors = clustered(11, 6_000, DIMENSION, 10);
        let mut delta = Delta::new(DIMENSION, 500);
        push(&mut delta, 0..3_000, &vectors);
        let before = delta.clone();
        push(&mut delta, 3_000..6_000, &vectors);
        delta.remove(&digest("7"));
        assert_eq!(before.rows_in_graphs(), 0);
        grow_all(&delta);
        assert_eq!(
            (before.rows_in_graphs(), delta.rows_in_graphs()),
            (3_000, 6_000)
        );
        for query in vectors.iter().skip(3_000).step_by(60) {
            let found = numbers(&before, query, 10, false);
            assert!(found.iter().all(|&number| number < 3_000), "{found:?}");
        }
        let found = [found(&before, &vectors), found(&delta, &vectors)];
        assert!(found.iter().all(|&found| found >= 475), "{found:?} of 500");
        assert!(numbers(&before, &vectors[7], 10, true).contains(&7));
        assert!(!numbers(&delta, &vectors[7], 10, true).contains(&7));
        assert!(!numbers(&delta, &vectors[7], 10, false).contains(&7));
        let own = (3_000..6_000).step_by(30);
        let own = own.filter(|&n| numbers(&delta, &vectors[n], 1, false) == [n]);
        assert!(own.clone().count() >= 95, "{} of 100", own.count());
    }

    #[test]
    fn what_the_graph_does_not_hold_yet_is_found_and_nothing_comes_twice() {
        let vectors = clustered(13, 4_000, DIMENSION, 10);
        let mut delta = Delta::new(DIMENSION, 500);
        push(&mut delta, 0..4_000, &vectors);
        for _ in 0..40 {
            assert!(delta.grow_graph());
        }
        assert_eq!(delta.rows_in_graphs(), 40 * STEP);
        for query in vectors.iter().step_by(90) {
            let mut found = numbers(&delta, query, 10, false);
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), 10);
        }
        let found = found(&delta, &vectors);
        assert!(found >= 475, "{found} of 500");
    }

    #[test]
    fn what_comes_while_a_merge_runs_keeps_its_graph_when_the_rest_is_dropped() {
        let vectors = clustered(12, 4_000, DIMENSION, 10);
        let mut delta = Delta::new(DIMENSION, 500);
        push(&mut delta, 0..2_000, &vectors);
        let frozen = delta.rows();
        delta.begin_part();
        delta.begin_part();
        push(&mut delta, 2_000..4_000, &vectors);
        delta.remove(&digest("2001"));
        assert_eq!(delta.parts.len(), 2);
        // The newest part is grown first, as it stays longest.
        assert!(delta.grow_graph());
        assert!(delta.parts[0].graph().is_none());
        grow_all(&delta);
        assert_eq!(delta.rows_in_graphs(), 4_000);
        delta.drop_before(frozen);
        assert_eq!(delta.parts.len(), 1);
        assert_eq!((delta.rows(), delta.passages()), (2_000, 1_999));
        assert_eq!(delta.numbers(), 1_999 * DIMENSION);
        assert_eq!(delta.rows_in_graphs(), 2_000);
        let own = (2_000..4_000).step_by(20);
        let own = own.filter(|&n| numbers(&delta, &vectors[n], 1, false) == [n]);
        assert!(own.clone().count() >= 95, "{} of 100", own.count());
        assert_ne!(numbers(&delta, &vectors[2_001], 1, false), [2_001]);
        assert_eq!(delta.find(&digest("1")), None);
    }
}
