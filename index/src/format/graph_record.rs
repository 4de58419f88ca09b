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
    /// How far a search must look, as measured when the graph was built.
    pub calibration: Calibration,
}

/// What a search through a graph needs, as measured when the graph was built.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The candidates that a search keeps, the paper's `ef`.
    pub ef_search: u32,
    /// The share of the ten best passages that a search with this `ef_search` finds.
    pub recall_at_10: f32,
    /// The vectors that such a search compares with the query.
    pub evaluations: u32,
    /// What a query needs that has nothing near it. `None` where such queries need no more, and in indexes
    /// of versions that did not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub far: Option<FarCalibration>,
}

/// What a search needs whose query has nothing near it: many vectors are then almost as near as the
/// nearest, and they are scattered over the graph.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FarCalibration {
    /// The score of the tenth passage below which a query has nothing near it.
    pub below: f32,
    /// As in [`Calibration`], for such queries.
    pub ef_search: u32,
    /// As in [`Calibration`], for such queries.
    pub recall_at_10: f32,
    /// As in [`Calibration`], for such queries.
    pub evaluations: u32,
}
