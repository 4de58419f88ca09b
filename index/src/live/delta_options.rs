//! When the delta changes its form.

/// Vectors in the delta from which on it becomes a segment.
pub const DELTA_VECTORS: usize = 4096;

/// Vectors from which on a walk through a graph takes less time than a scan of sketches. At 896 dimensions
/// hnsw_rs walks in 0.9 ms among 20,000, 1.0 ms among 60,000 and 1.4 ms among 150,000 vectors with 16 links,
/// and in 1.2 times that with the 32 that large graphs need. A scan takes 0.2 ms for 20,000, 0.5 ms for
/// 50,000, 0.9 ms for 100,000 and 1.4 ms for 150,000 vectors (on another processor), and four times as long
/// where nothing is near the query.
pub const DELTA_GRAPH_VECTORS: usize = 200_000;

/// When the delta gets a graph, and when it becomes a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaOptions {
    /// Vectors from which on a merge makes a segment of the delta.
    pub merge_from: usize,
    /// Vectors from which on the delta is searched through a graph, which is begun at half of them;
    /// with `usize::MAX` it is always scanned.
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
