//! What the manifest records of a segment's graph.

use serde::{Deserialize, Serialize};

/// Parameters of the HNSW graph, named as in the paper (Malkov and Yashunin, 2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphParameters {
    /// Links of a vector in the upper layers; twice as many in the lowest.
    pub m: usize,
    /// Candidates considered when a vector is linked.
    pub ef_construction: usize,
}

/// The graph of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphRecord {
    /// What it was built with.
    pub parameters: GraphParameters,
    /// What a search through it was measured to need.
    pub calibration: Calibration,
}

/// What a search through a graph needs, as measured when the graph was built.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Vectors that a search keeps in view, the paper's `ef`.
    pub ef_search: u32,
    /// Share of the ten best passages that it finds so.
    pub recall_at_10: f32,
    /// Vectors that it compares with the query.
    pub evaluations: u32,
}
