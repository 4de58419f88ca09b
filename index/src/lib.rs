//! Passages, their embeddings and an HNSW graph over them, in one directory that is verified before
//! it is used.
//!
//! The library takes vectors and knows no model: whoever embeds the passages names the model by its
//! [`Fingerprints`], and an index is only searched with queries of the same model
//! ([`Index::check_fingerprints`]).
//!
//! - [`Corpus`] reads documents (JSON lines, Parquet, folders of text) and reports bad ones as values;
//!   a [`Splitter`] makes passages of those that are long.
//! - [`IndexBuilder`] streams passages and vectors to a directory beside the target and renames it
//!   at the end; [`build_from_corpus`] joins the two with a function that embeds.
//! - [`Index`] opens such a directory, reads no byte unverified, searches it by cosine, and changes it.
//!
//! Small collections (up to [`EXACT_SCAN_LIMIT`] vectors) are scanned exactly; larger ones are
//! searched through an HNSW graph over int8 codes of their vectors. What is found is scored in f32.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod builder;
mod change;
mod delta;
mod error;
mod files;
mod filter;
mod graph;
mod index;
mod ingest;
mod log;
mod manifest;
mod merge;
mod open;
mod search;
mod segment;
mod snapshot;
mod stats;
#[cfg(test)]
mod testing;
mod verify;
mod writer;

pub use builder::{BuildOptions, EXACT_SCAN_LIMIT, IndexBuilder};
pub use change::{Applied, Change};
pub use error::IndexError;
pub use filter::json::{FilterError, FilterReason};
pub use filter::{Filter, Scalar};
pub use graph::calibrate::Calibration;
pub use index::{Hit, Index, SearchOptions};
pub use ingest::corpus::{Corpus, CorpusError, Document, Position, RecordError, RecordReason};
pub use ingest::sentences::{sentence_prefixes, sentences};
pub use ingest::split::{SplitPassage, Splitter};
pub use ingest::{
    DocumentRules, Embedder, IngestError, IngestEvent, IngestOptions, Ingested, VectorsPer,
    add_from_corpus, build_from_corpus,
};
pub use manifest::{
    FORMAT_VERSION, FileRecord, Fingerprints, GraphParameters, GraphRecord, MANIFEST_FILE,
    Manifest, Metric, SegmentRecord, TombstoneRecord,
};
pub use merge::DELTA_VECTORS;
pub use segment::passages::{Part, Passage};
pub use stats::{SegmentSearch, SegmentStats, Stats};
pub use verify::{Finding, Remedy, Verification, verify};
