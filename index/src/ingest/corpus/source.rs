//! What each kind of corpus implements, and why a corpus cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use super::document::Document;
use super::left_out::LeftOut;
use super::record::{Position, RecordError, RecordReason};

/// The most bytes of a record that is kept in memory whole: a line, or a file of a folder.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;

/// Why a corpus cannot be opened, or cannot be continued where an earlier run stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is not of a kind that can be read.
    #[error(
        "{} is no corpus: {reason}; what is read: .jsonl or .ndjson (a JSON object a line) and either with .gz or .zst, .parquet, or a directory of such files and of text (.md, .mdx, .txt, .rst, .adoc, .org, .html)", .path.display()
    )]
    Kind {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The table cannot be read.
    #[error("{}: {reason}", .path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The corpus has fewer records than were read of it before.
    #[error(
        "the corpus ends after {records} records, but {skip} were read of it before: it is another one"
    )]
    EndsEarly {
        /// Records in it.
        records: u64,
        /// Records that were to be skipped.
        skip: u64,
    },
    /// The corpus cannot be read as far as it was before.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl CorpusError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// What each kind of corpus implements.
pub(super) trait Source: Send {
    /// The next record, or `None` at the end. It is not called again after [`RecordReason::Read`].
    ///
    /// A bad record is an item, which the caller counts. What else is left out, such as a column or the
    /// whole of an empty file, is added to `left_out`.
    fn next(
        &mut self,
        left_out: &mut LeftOut,
    ) -> Option<(Position, Result<Document, RecordReason>)>;

    /// How much of the total was read, in bytes.
    fn bytes_read(&self) -> u64;
}
