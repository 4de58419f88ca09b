//! The HNSW graph over the delta. This is the only file that knows hnsw_rs.
//!
//! The graph only grows, so all snapshots share it: each sees the nodes that were there when it was
//! published, and hides what was deleted or came later. What hnsw_rs 0.3.5 does, as measured, and what
//! follows from it here:
//!
//! - Equal vectors push everything else out of each other's lists, so that a thousand copies cut off the
//!   rest of the graph. Vectors with equal codes are one node with a list of owners.
//! - A filtered walk goes on until `ef` allowed nodes are known, and gives up at once where `ef` is 1.
//!   So `ef` is never small, and the caller scans where few passages are allowed.
//! - `set_keeping_pruned(true)` halves the recall on corpora in topic order; it stays off.
//! - Its dumps cannot be read safely when they are damaged. The log is the truth: the graph is never
//!   written to the disk.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{PoisonError, RwLock};
use std::thread;

use hnsw_rs::prelude::{Distance, Hnsw, Neighbour};

use crate::segment::codes::{encode, stride};
use crate::segment::search::dot_i8::dot_i8;

// Links of a node in the upper layers; twice as many in the lowest.
const M: usize = 16;
const EF_CONSTRUCTION: usize = 80;
// The layers that hnsw_rs allows at most.
const LAYERS: usize = 16;
// Only a hint, for the memory that is reserved.
const EXPECTED_NODES: usize = 1 << 14;
// The first nodes are inserted one by one: several at once would not be linked to one another.
const ALONE: usize = 64;

/// A vector of a passage that is to be inserted.
pub(crate) struct NewVector<'v> {
    /// The passage's row, counted from the first one that the graph may hold.
    pub(crate) row: u32,
    /// Unit vector.
    pub(crate) unit: &'v [f32],
}

/// A graph over int8 codes that many search while one inserts.
pub(crate) struct DeltaGraph {
    hnsw: Hnsw<'static, i8, CodeDistance>,
    nodes: RwLock<Nodes>,
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
        }
    }

    /// Number of nodes: distinct vectors.
    pub(crate) fn nodes(&self) -> usize {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.rows.len()
    }

    /// Inserts vectors, whose rows never decrease. Only one thread may call it at a time, which the
    /// writer's lock ensures; searches go on meanwhile and do not see the vectors before it returns.
    pub(crate) fn insert(&self, vectors: &[NewVector<'_>]) {
        let mut codes: Vec<Vec<i8>> = Vec::new();
        let mut owned: Vec<(usize, u32)> = Vec::new();
        let mut new_codes: HashMap<[u8; 16], usize> = HashMap::new();
        let known = {
            let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
            let known = nodes.rows.len();
            for vector in vectors {
                let code = point(vector.unit);
                let digest = digest(&code);
                let node = match nodes.by_code.get(&digest) {
                    Some(node) => *node,
                    None => *new_codes.entry(digest).or_insert_with(|| {
                        codes.push(code);
                        known + codes.len() - 1
                    }),
                };
                owned.push((node, vector.row));
            }
            known
        };
        self.link(known, &codes);
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.rows.resize(known + codes.len(), Vec::new());
        nodes.by_code.extend(new_codes);
        for (node, row) in owned {
            let rows = &mut nodes.rows[node];
            if rows.last() != Some(&row) {
                rows.push(row);
            }
        }
    }

    /// Links new nodes, which are numbered from `known` on, on all cores.
    fn link(&self, known: usize, codes: &[Vec<i8>]) {
        let insert = |from: usize, codes: &[Vec<i8>]| {
            for (node, code) in (known + from..).zip(codes) {
                self.hnsw.insert((code, node));
            }
        };
        let alone = ALONE.saturating_sub(known).min(codes.len());
        insert(0, &codes[..alone]);
        let rest = &codes[alone..];
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = rest.len().div_ceil(threads).max(ALONE);
        thread::scope(|scope| {
            for (number, codes) in rest.chunks(share).enumerate() {
                scope.spawn(move || insert(alone + number * share, codes));
            }
        });
    }

    /// Rows of visible passages near a unit query, each once and in no order. `ef` nodes are kept in
    /// view, and of each at most `k` rows are returned: the copies of one vector come in their order.
    pub(crate) fn nearest(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        is_visible: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let code = point(query);
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let is_visible = &is_visible;
        let visible_rows = |node: usize| {
            let rows = nodes.rows.get(node).into_iter().flatten().copied();
            rows.filter(|&row| is_visible(row))
        };
        let sees = |node: &usize| visible_rows(*node).next().is_some();
        let mut near: Vec<Neighbour> = self.hnsw.search(&code, ef, ef);
        let reached = near.len();
        near.retain(|node| sees(&node.d_id));
        // With a filter hnsw_rs does not stop early but empties its queue, so it is tried without first:
        // most often enough is visible.
        if near.len() * 2 < reached {
            near = self.hnsw.search_filter(&code, ef, ef, Some(&sees));
        }
        let mut rows: Vec<u32> = near
            .iter()
            .flat_map(|node| visible_rows(node.d_id).take(k))
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

/// A vector as hnsw_rs holds it: its int8 code, then the bytes of the code's scale.
fn point(unit: &[f32]) -> Vec<i8> {
    let width = stride(unit.len());
    let mut point = vec![0; width + size_of::<f32>()];
    let [scale, _] = encode(unit, &mut point[..width][..unit.len()]);
    point[width..].copy_from_slice(bytemuck::cast_slice(&scale.to_le_bytes()));
    point
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
