//! Finding the nearest vectors of a segment: by a scan or by a walk through its graph.

pub(crate) mod candidates;
pub(crate) mod dot_i8;
pub(crate) mod scan;
pub(crate) mod score;
pub(crate) mod walk;
