//! An open index: what searches see, how it is changed, and how changes become segments.

mod background;
pub(crate) mod change;
pub(crate) mod current;
pub(crate) mod delta;
mod delta_graph;
pub(crate) mod delta_options;
mod delta_rows;
mod delta_scan;
mod delta_search;
mod delta_vectors;
mod grower;
pub(crate) mod hit;
pub(crate) mod index;
pub(crate) mod live_segment;
pub(crate) mod merge;
pub(crate) mod open;
mod sketch;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod verify;
pub(crate) mod writer;
