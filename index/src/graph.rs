//! Building the HNSW graph. The only file that names hnsw_rs.
//!
//! hnsw_rs links the vectors; the links are then taken out of it and kept as [`Links`]. So nothing
//! that was ever on a disk reaches it, and its limits (it can exit the process on a large `m`,
//! panics on NaN, cannot delete, and a loaded graph borrows its loader) end here.

use hnsw_rs::prelude::{Distance, Hnsw};

use crate::error::IndexError;
use crate::links::{LayerLinks, Links, Words, flatten};
use crate::manifest::GraphParameters;
use crate::scan::dot;
use crate::vectors::VectorStore;

// hnsw_rs's own limit.
const MAX_LAYERS: usize = 16;
// Inserted one by one: vectors that are inserted at once into an empty graph do not see each other.
const SEQUENTIAL: usize = 512;
// Vectors handed to all cores at once, between two reports of progress.
const CHUNK: usize = 2048;

/// Distance between two vectors by their numbers, so that the graph needs no copy of them.
struct CosineDistance<'v> {
    vectors: &'v VectorStore,
}

impl Distance<u32> for CosineDistance<'_> {
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        // hnsw_rs asserts that no distance is negative; rounding can make 1 - cosine so. `max` also
        // keeps NaN out.
        let row = |point: &[u32]| self.vectors.row(point[0]).unwrap_or_default();
        (1.0 - dot(row(a), row(b))).max(0.0)
    }
}

impl GraphParameters {
    /// Fails for values with which no graph can be built.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        if !(2..=128).contains(&self.m) {
            return Err(IndexError::Option {
                name: "m",
                value: self.m,
                allowed: "between 2 and 128",
            });
        }
        if !(1..=4096).contains(&self.ef_construction) {
            let (name, value) = ("ef_construction", self.ef_construction);
            return Err(IndexError::Option {
                name,
                value,
                allowed: "between 1 and 4096",
            });
        }
        Ok(())
    }
}

/// Links all vectors, of which there is at least one. `on_linked` hears how many are done and says
/// whether to go on.
pub(crate) fn build(
    vectors: &VectorStore,
    parameters: &GraphParameters,
    mut on_linked: impl FnMut(usize) -> bool,
) -> Result<Links, IndexError> {
    parameters.check()?;
    let numbers: Vec<u32> = (0..vectors.count() as u32).collect();
    let hnsw = Hnsw::new(
        parameters.m,
        numbers.len(),
        MAX_LAYERS,
        parameters.ef_construction,
        CosineDistance { vectors },
    );
    let (first, rest) = numbers.split_at(SEQUENTIAL.min(numbers.len()));
    for number in first {
        hnsw.insert_slice((std::slice::from_ref(number), *number as usize));
    }
    if !on_linked(first.len()) {
        return Err(IndexError::Closed);
    }
    let mut linked = first.len();
    for chunk in rest.chunks(CHUNK) {
        let points: Vec<(&[u32], usize)> = chunk
            .iter()
            .map(|n| (std::slice::from_ref(n), *n as usize))
            .collect();
        hnsw.parallel_insert_slice(&points);
        linked += chunk.len();
        if !on_linked(linked) {
            return Err(IndexError::Closed);
        }
    }

    let layers = take_links(&hnsw);
    let entry = layers
        .last()
        .and_then(|top| top.first())
        .map_or(0, |(point, _)| *point);
    let words = flatten(&layers, entry).ok_or(IndexError::TooLarge {
        what: "links",
        limit: u32::MAX.into(),
    })?;
    Links::parse(Words::Built(words), vectors.count())
        .map_err(|reason| IndexError::damaged(crate::links::GRAPH.as_ref(), reason))
}

/// The links of each layer, lowest first, up to the highest that holds a point.
fn take_links(hnsw: &Hnsw<'_, u32, CosineDistance<'_>>) -> Vec<LayerLinks> {
    let points = hnsw.get_point_indexation();
    let mut layers: Vec<LayerLinks> = Vec::new();
    for top in 0..MAX_LAYERS {
        // hnsw_rs keeps each point in the highest layer it belongs to.
        for point in points.get_layer_iterator(top) {
            layers.resize_with(layers.len().max(top + 1), LayerLinks::new);
            let number = point.get_origin_id() as u32;
            for (layer, neighbours) in layers
                .iter_mut()
                .zip(point.get_neighborhood_id())
                .take(top + 1)
            {
                let links = neighbours
                    .iter()
                    .map(|n| n.d_id as u32)
                    .filter(|&n| n != number);
                layer.push((number, links.collect()));
            }
        }
    }
    for layer in &mut layers {
        layer.sort_unstable();
    }
    layers
}
