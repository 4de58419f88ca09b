//! The HNSW graph over the delta. This is the only file that knows hnsw_rs.
//!
//! The graph only grows, so all snapshots share it: each looks at the rows that it knows itself, and
//! hides what was deleted or came later. What hnsw_rs 0.3.5 does, as measured, and what follows from it
//! here:
//!
//! - Equal vectors push everything else out of each other's lists, so that a thousand copies cut off the
//!   rest of the graph. Vectors with equal codes are one node with a list of owners.
//! - A filtered walk goes on until `ef` allowed nodes are known, and gives up at once where `ef` is 1.
//!   So `ef` is never small, and the caller scans where few passages are allowed.
//! - `set_keeping_pruned(true)` halves the recall on corpora in topic order; it stays off.
//! - A walk finds two of three where nothing is near the query. How near the neighbours of nodes are is
//!   measured, and a query whose neighbours are farther is left to a scan.
//! - Its dumps cannot be read safely when they are damaged. The log is the truth: the graph is never
//!   written to the disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw, Neighbour};
use parking_lot::{Mutex, RwLock};

use crate::segment::codes::Code;
use crate::segment::graph::calibrate::{K, MISTAKEN};
use crate::segment::search::dot_i8::dot_i8;

// Links of a node in the upper layers; twice as many in the lowest. With 16, whole clusters are cut off as
// they grow: recall@10 is 1 on 60,000 clustered vectors and .84 on 150,000 (of 128 dimensions .94, and with
// 32 it is 1).
const M: usize = 32;
// With 80, recall@10 on 60,000 vectors in topic order falls to .43; with 200 it is .99.
const EF_CONSTRUCTION: usize = 200;
// The layers that hnsw_rs allows at most.
const LAYERS: usize = 16;
/// Nodes that a search through the graph keeps in view, at least.
pub(crate) const EF: usize = 224;
// Nodes from which on distances are measured, and how many of them are searched for: this many to twice
// as many.
const MEASURED_FROM: usize = 512;
const SAMPLE: usize = 64;
// Only a hint, for the memory that is reserved.
const EXPECTED_NODES: usize = 1 << 14;

/// A vector of a passage that is to be inserted.
pub(crate) struct NewVector<'v> {
    /// The passage's row, counted from the first one that the graph may hold.
    pub(crate) row: u32,
    /// The code of a unit vector.
    pub(crate) code: Code<'v>,
}

/// A graph over int8 codes that many search while one thread inserts.
pub(crate) struct DeltaGraph {
    hnsw: Hnsw<'static, i8, CodeDistance>,
    nodes: RwLock<Nodes>,
    // Rows whose vectors are all inserted, from the first on.
    rows: AtomicUsize,
    sample: Mutex<Sample>,
    // The bits of the distance of its tenth neighbour from which on a query is far.
    far_from: AtomicU32,
}

/// Nodes, spread over the order in which they came.
struct Sample {
    points: Vec<Vec<i8>>,
    /// One of so many nodes is among them.
    every: usize,
    /// The nodes that there were when distances were last measured.
    measured: usize,
}

#[derive(Default)]
struct Nodes {
    /// The rows of the passages whose vector a node is, ascending.
    rows: Vec<Vec<u32>>,
    /// The node of a code, by 128 bits of the code's blake3.
    by_code: HashMap<[u8; 16], usize>,
}

impl DeltaGraph {
    pub(crate) fn new() -> Self {
        Self {
            hnsw: Hnsw::new(M, EXPECTED_NODES, LAYERS, EF_CONSTRUCTION, CodeDistance),
            nodes: RwLock::default(),
            rows: AtomicUsize::new(0),
            sample: Mutex::new(Sample {
                points: Vec::new(),
                every: MEASURED_FROM / SAMPLE,
                measured: MEASURED_FROM / 2,
            }),
            far_from: AtomicU32::new(f32::INFINITY.to_bits()),
        }
    }

    /// How many rows from the first on have all their vectors in the graph. It never decreases.
    pub(crate) fn rows(&self) -> usize {
        self.rows.load(Ordering::Acquire)
    }

    /// Number of nodes: distinct vectors.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.read().rows.len()
    }

    /// Inserts the vectors of all rows up to `to` that are not in it yet, in the order of the rows.
    /// Only one thread may call it at a time; searches go on meanwhile.
    pub(crate) fn insert<'v>(&self, vectors: impl Iterator<Item = NewVector<'v>>, to: usize) {
        for NewVector { row, code } in vectors {
            let point = point(code);
            let digest = digest(&point);
            let known = self.nodes.read().by_code.get(&digest).copied();
            if let Some(node) = known {
                let rows = &mut self.nodes.write().rows[node];
                if rows.last() != Some(&row) {
                    rows.push(row);
                }
                continue;
            }
            // The node is known before a walk can reach it, and linked before its row counts.
            let mut nodes = self.nodes.write();
            let node = nodes.rows.len();
            nodes.rows.push(vec![row]);
            nodes.by_code.insert(digest, node);
            drop(nodes);
            self.hnsw.insert((&point, node));
            self.sample.lock().offer(node, point);
        }
        self.measure();
        self.rows.store(to, Ordering::Release);
    }

    /// Measures how far from its neighbours a node is, whenever the nodes have doubled.
    fn measure(&self) {
        let mut sample = self.sample.lock();
        let nodes = self.nodes();
        if nodes < 2 * sample.measured {
            return;
        }
        sample.measured = nodes;
        let points = sample.points.iter();
        // The first one that is found is the node itself.
        let searches = points.map(|point| self.hnsw.search(point, K + 1, EF));
        let mut distances: Vec<f32> = searches
            .filter_map(|near| near.last().map(|last| last.distance))
            .collect();
        distances.sort_by(|a, b| b.total_cmp(a));
        if let Some(&far) = distances.get(distances.len() / MISTAKEN) {
            self.far_from.store(far.to_bits(), Ordering::Relaxed);
        }
    }

    /// Rows of visible passages near a query, each once and ascending. `ef` nodes are kept in view,
    /// and of each at most `k` rows are returned: the copies of one vector come in their order.
    /// `None` where nothing is near the query, since a walk then misses many of the best.
    pub(crate) fn nearest(
        &self,
        query: Code<'_>,
        k: usize,
        ef: usize,
        is_visible: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        let query = point(query);
        let mut near: Vec<Neighbour> = self.hnsw.search(&query, ef, ef);
        let nodes = self.nodes.read();
        let is_visible = &is_visible;
        let visible_rows = |node: usize| {
            let rows = nodes.rows.get(node).into_iter().flatten().copied();
            rows.filter(|&row| is_visible(row))
        };
        let sees = |node: &usize| visible_rows(*node).next().is_some();
        let reached = near.len();
        near.retain(|node| sees(&node.d_id));
        // With a filter hnsw_rs does not stop early but empties its queue, so it is tried without first:
        // most often enough is visible.
        if near.len() * 2 < reached {
            near = self.hnsw.search_filter(&query, ef, ef, Some(&sees));
        }
        let last = near.get(K - 1).or(near.last())?;
        if last.distance > f32::from_bits(self.far_from.load(Ordering::Relaxed)) {
            return None;
        }
        let mut rows: Vec<u32> = near
            .iter()
            .flat_map(|node| visible_rows(node.d_id).take(k))
            .collect();
        rows.sort_unstable();
        rows.dedup();
        Some(rows)
    }
}

impl Sample {
    fn offer(&mut self, node: usize, point: Vec<i8>) {
        if !node.is_multiple_of(self.every) {
            return;
        }
        if self.points.len() == 2 * SAMPLE {
            let mut place = 0..;
            self.points
                .retain(|_| place.next().is_some_and(|n: usize| n.is_multiple_of(2)));
            self.every *= 2;
            if !node.is_multiple_of(self.every) {
                return;
            }
        }
        self.points.push(point);
    }
}

/// A vector as hnsw_rs holds it: its int8 code, then the bytes of the code's scale.
fn point(code: Code<'_>) -> Vec<i8> {
    let scale = code.scale.to_le_bytes().map(|byte| byte as i8);
    [code.numbers, &scale].concat()
}

fn digest(point: &[i8]) -> [u8; 16] {
    let hash = blake3::hash(bytemuck::cast_slice(point));
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.as_bytes()[..16]);
    digest
}

/// 1 − cosine of two points, never below 0, which hnsw_rs would not accept.
struct CodeDistance;

impl Distance<i8> for CodeDistance {
    fn eval(&self, a: &[i8], b: &[i8]) -> f32 {
        let (Some((a, a_scale)), Some((b, b_scale))) =
            (a.split_last_chunk::<4>(), b.split_last_chunk::<4>())
        else {
            return 2.0;
        };
        let scale = |bytes: &[i8; 4]| f32::from_le_bytes(bytes.map(|byte| byte as u8));
        let cosine = dot_i8(a, b) as f32 * (scale(a_scale) * scale(b_scale));
        (1.0 - cosine).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::codes::{encode, stride};
    use crate::segment::vectors::normalised;
    use crate::testing::clustered;

    const DIMENSION: usize = 64;

    /// The numbers and the scale of a vector's code.
    fn coded(vector: &[f32]) -> (Vec<i8>, f32) {
        let mut numbers = vec![0; stride(DIMENSION)];
        let [scale, _] = encode(&normalised(vector, DIMENSION).unwrap(), &mut numbers);
        (numbers, scale)
    }

    #[test]
    fn a_query_that_has_nothing_near_is_told_from_others() {
        let mut vectors = clustered(1, 2_050, DIMENSION, 10);
        let near = vectors.split_off(2_000);
        let far = clustered(2, 50, DIMENSION, 50);
        let graph = DeltaGraph::new();
        let coded_vectors: Vec<_> = vectors.iter().map(|v| coded(v)).collect();
        for batch in 0..20 {
            let rows = batch * 100..(batch + 1) * 100;
            let new = rows.clone().map(|row| {
                let (numbers, scale) = &coded_vectors[row];
                let (row, scale) = (row as u32, *scale);
                NewVector {
                    row,
                    code: Code { numbers, scale },
                }
            });
            graph.insert(new, rows.end);
        }
        let found = |queries: &[Vec<f32>]| {
            let queries = queries.iter().filter(|query| {
                let (numbers, scale) = &coded(query);
                let code = Code {
                    numbers,
                    scale: *scale,
                };
                graph.nearest(code, 10, EF, |_| true).is_some()
            });
            queries.count()
        };
        let (near, far) = (found(&near), found(&far));
        assert!(near >= 45, "{near} of 50");
        assert_eq!(far, 0);
        // The sample is spread over all nodes.
        let sample = graph.sample.lock();
        assert!((SAMPLE..=2 * SAMPLE).contains(&sample.points.len()));
        assert_eq!(sample.points.last(), Some(&point_of(&coded_vectors[1_984])));
    }

    fn point_of((numbers, scale): &(Vec<i8>, f32)) -> Vec<i8> {
        let scale = *scale;
        point(Code { numbers, scale })
    }
}
