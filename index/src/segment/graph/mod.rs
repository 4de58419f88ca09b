//! The HNSW graph of a segment: its links, and the `ef` that searches through them need, as
//! measured.

pub(crate) mod build;
pub(crate) mod calibrate;
pub(crate) mod copies;
mod far_queries;
pub(crate) mod layer;
pub(crate) mod links;

use crate::error::IndexError;
use crate::format::graph_record::{Calibration, GraphParameters};
use crate::segment::graph::calibrate::{LEAST_RECALL, RECALL, calibrate};
use crate::segment::graph::links::Links;
use crate::segment::vectors::VectorStore;

/// A graph and the `ef` that searches through it need, as measured.
pub(crate) struct Graph {
    pub(crate) links: Links,
    pub(crate) calibration: Calibration,
}

impl Graph {
    /// Links all vectors, of which there must be at least one, and measures the graph. Returns `None`
    /// if the graph finds too little with every `ef`; such vectors are better scanned.
    pub(crate) fn build(
        vectors: &VectorStore,
        parameters: &GraphParameters,
        on_linked: impl FnMut(usize) -> bool,
    ) -> Result<Option<Self>, IndexError> {
        let links = build::build(vectors.codes(), parameters, on_linked)?;
        let calibration = calibrate(vectors, &links, RECALL)?;
        if calibration.recall_at_10 < LEAST_RECALL {
            tracing::warn!(
                ?calibration,
                "the graph finds too little, so every search is a scan"
            );
            return Ok(None);
        }
        Ok(Some(Self { links, calibration }))
    }
}
