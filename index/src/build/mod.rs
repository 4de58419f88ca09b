//! An index from nothing: written beside its target, put in its place when it is finished.

pub(crate) mod builder;
pub(crate) mod ingested;
mod staging;
