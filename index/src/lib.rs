//! Passages, their embeddings and an HNSW graph over them, in one directory that is verified before
//! it is used.
//!
//! The library takes vectors and knows no model. The program that embeds the passages names its model by
//! [`Fingerprints`], and an index is only searched with queries of the same model
//! ([`Index::check_fingerprints`]). The feature `engine` implements [`Embedder`] for the engine's model.
//!
//! - [`Corpus`] reads documents (JSON lines, Parquet, folders of text) and reports bad ones as values;
//!   a [`Splitter`] makes passages of those that are long.
//! - [`IndexBuilder`] streams passages and vectors to a directory beside the target and renames it
//!   at the end; [`build_from_corpus`] joins the two with a function that embeds.
//! - [`Index`] opens such a directory, reads no byte unverified, searches it by cosine, and changes it.
//! - [`RemoteCollection`] is the same over a table of PostgreSQL or a collection of Milvus, and [`Store`] any of
//!   these.
//!
//! Small collections (up to [`EXACT_SCAN_LIMIT`] vectors) are scanned exactly; larger ones are
//! searched through an HNSW graph over int8 codes of their vectors. What is found is scored in f32.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
#[cfg(feature = "engine")]
mod engine;
mod error;
mod filter;
mod fingerprints;
mod format;
mod ingest;
mod live;
mod remote;
mod segment;
mod store;
#[cfg(test)]
mod testing;

pub use build::builder::{BuildOptions, EXACT_SCAN_LIMIT, IndexBuilder};
pub use build::ingested::Ingested;
pub use build::merge_shards::merge_shards;
pub use error::IndexError;
pub use filter::json::{FilterError, FilterReason};
pub use filter::{Filter, Number, Scalar};
pub use fingerprints::Fingerprints;
pub use format::document_rules::{DocumentRules, Splitter, VectorsPer};
pub use format::file_record::FileRecord;
pub use format::graph_record::{Calibration, FarCalibration, GraphParameters, GraphRecord};
pub use format::manifest::{
    FORMAT_VERSION, MANIFEST_FILE, Manifest, Metric, SegmentRecord, TombstoneRecord,
};
pub use format::move_directory::move_directory;
pub use format::shard::Shard;
pub use ingest::corpus::{
    Corpus, CorpusError, Document, LeftOut, LeftOutGroup, Position, RecordError, RecordReason,
};
pub use ingest::sentences::{sentence_prefixes, sentences};
pub use ingest::split::SplitPassage;
pub use ingest::{
    EmbeddedText, Embedder, IngestError, IngestEvent, IngestOptions, add_from_corpus,
    build_from_corpus,
};
pub use live::change::{Change, ChangeCounts};
pub use live::delta_options::{DELTA_GRAPH_VECTORS, DELTA_VECTORS, DeltaOptions};
pub use live::hit::{Hit, SearchOptions};
pub use live::index::Index;
pub use live::stats::{SegmentSearch, SegmentStats, Stats};
pub use live::verify::{Finding, Remedy, Verification, verify};
pub use remote::{
    MilvusAddress, PostgresAddress, PostgresLink, PushProgress, RemoteAddress, RemoteCollection,
    RemoteOptions, RemoteStats, RemoteVerification, push, without_password,
};
pub use segment::passages::{Part, Passage};
pub use store::Store;
