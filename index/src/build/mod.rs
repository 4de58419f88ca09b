//! Builds an index from nothing: it is written beside its target and moved there when it is
//! finished.

pub(crate) mod builder;
pub(crate) mod ingested;
pub(crate) mod merge_shards;
mod staging;
