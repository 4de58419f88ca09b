//! Passages, their embeddings and an HNSW graph over them, in one directory that is verified before
//! it is used.
//!
//! The library takes vectors and knows no model: whoever embeds the passages names the model by its
//! [`Fingerprints`], and an index is only searched with queries of the same model
//! ([`Index::check_fingerprints`]).
//!
//! - [`CorpusReader`] reads a JSONL corpus and reports bad lines as values.
//! - [`IndexBuilder`] streams passages and vectors to a directory beside the target and renames it
//!   at the end; [`build_from_corpus`] joins the two with a function that embeds.
//! - [`Index`] opens such a directory, checks every byte of it, and searches it by cosine.
//!
//! Small collections (up to [`EXACT_SCAN_LIMIT`] vectors) are scanned exactly; larger ones are
//! searched through an HNSW graph over int8 codes of their vectors. What is found is scored in f32.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builder;
mod calibrate;
mod candidates;
mod codes;
mod copies;
mod corpus;
mod dot_i8;
mod error;
mod files;
mod graph;
mod index;
mod ingest;
mod layer;
mod links;
mod manifest;
mod nearest;
mod passages;
mod scan;
mod staging;
#[cfg(test)]
mod testing;
mod vectors;
mod walk;

pub use builder::{BuildOptions, EXACT_SCAN_LIMIT, IndexBuilder};
pub use calibrate::Calibration;
pub use corpus::{CorpusReader, LineError, LineReason};
pub use error::IndexError;
pub use index::{GraphState, Hit, Index};
pub use ingest::{
    BuildEvent, BuildReport, Embedded, IngestError, IngestOptions, build_from_corpus,
};
pub use manifest::{
    FORMAT_VERSION, FileRecord, Fingerprints, GraphParameters, GraphRecord, MANIFEST_FILE,
    Manifest, Metric,
};
pub use passages::Passage;
