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
//! - [`Index`] opens such a directory, checks every byte of it, and searches it by cosine.
//!
//! Small collections (up to [`EXACT_SCAN_LIMIT`] vectors) are scanned exactly; larger ones are
//! searched through a graph that `hnsw_rs` builds and that is kept as a flat file of links.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bitset;
mod blocks;
mod builder;
mod change;
mod checked;
mod columns;
mod corpus;
mod delta;
mod error;
mod filter;
mod filter_json;
mod graph;
mod index;
mod ingest;
mod links;
mod log;
mod manifest;
mod merge;
mod metadata;
mod passages;
mod scan;
mod segment;
mod sentences;
mod snapshot;
mod split;
mod staging;
mod tombstones;
mod tracked;
mod vectors;
mod verify;
mod writer;

pub use builder::{BuildOptions, EXACT_SCAN_LIMIT, IndexBuilder};
pub use change::{Applied, Change};
pub use corpus::{Corpus, CorpusError, Document, Position, RecordError, RecordReason};
pub use error::IndexError;
pub use filter::{Filter, Scalar};
pub use filter_json::{FilterError, FilterReason};
pub use index::{Hit, Index, SearchOptions, SegmentSearch, SegmentStats, Stats};
pub use ingest::{
    Embedder, IngestError, IngestEvent, IngestOptions, Ingested, VectorsPer, add_from_corpus,
    build_from_corpus,
};
pub use manifest::{
    FORMAT_VERSION, FileRecord, Fingerprints, GraphParameters, MANIFEST_FILE, Manifest, Metric,
    SegmentRecord, TombstoneRecord,
};
pub use merge::DELTA_VECTORS;
pub use passages::{Part, Passage};
pub use segment::EF_SEARCH;
pub use sentences::{sentence_prefixes, sentences};
pub use split::{SplitPassage, Splitter};
pub use verify::{Finding, Remedy, Verification, verify};
