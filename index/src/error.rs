//! What can go wrong with an index, with the evidence and the remedy.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fingerprints::Fingerprints;

/// Why an index could not be built, opened or searched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The directory holds no manifest of an index.
    #[error("{} is not an index ({reason}); build one with `onegen-index build corpus.jsonl --out DIR`", .dir.display())]
    NotAnIndex {
        /// The directory that was opened.
        dir: PathBuf,
        /// What is missing.
        reason: String,
    },

    /// The index was written by another version of the format.
    #[error("{}: format version is {got}, this program reads {expected}; build the index again", .file.display())]
    Version {
        /// The manifest.
        file: PathBuf,
        /// The version that this program writes and reads.
        expected: u32,
        /// The version found.
        got: u64,
    },

    /// A file is shorter or longer than the manifest says.
    #[error("{}: {got} bytes, the manifest says {expected}; restore the file or build the index again", .file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Length in the manifest, in bytes.
        expected: u64,
        /// Length found, in bytes.
        got: u64,
    },

    /// The content of a file is not what was written.
    #[error("{}: checksum is {got}, the manifest says {expected}; restore the file or build the index again", .file.display())]
    ChecksumMismatch {
        /// The file.
        file: PathBuf,
        /// blake3 in the manifest, hexadecimal.
        expected: String,
        /// blake3 of the file, hexadecimal.
        got: String,
    },

    /// A file contradicts itself or another file.
    #[error("{}: {reason}; build the index again", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The contradiction.
        reason: String,
    },

    /// The index was built by another model, tokenizer or passage template.
    #[error(
        "the index was built by {index}, but the model is {model}: {differs} differ; build the index again with this model, or serve the model that built it"
    )]
    FingerprintMismatch {
        /// The model that built the index.
        index: Box<Fingerprints>,
        /// The model that is to be used with it.
        model: Box<Fingerprints>,
        /// Which of the three fingerprints differ.
        differs: String,
    },

    /// A vector has another width than the index.
    #[error(
        "vector has {got} dimensions, the index has {expected}; embed with the model that built the index"
    )]
    Dimension {
        /// Dimensions of the index.
        expected: usize,
        /// Dimensions of the vector.
        got: usize,
    },

    /// A vector has no direction: it is zero, or holds a NaN or an infinity.
    #[error("vector has no direction ({reason}), so it has no cosine with any other")]
    NoDirection {
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Two passages have one id.
    #[error("two passages have the id {id:?}; ids must be unique")]
    DuplicateId {
        /// The id.
        id: String,
    },

    /// A passage came without a vector.
    #[error("passage {id:?} has no vector; give it at least one")]
    NoVector {
        /// The passage's id.
        id: String,
    },

    /// Another process, or another part of this process, has the index open for changes.
    #[error("{} is open for changes already; only one may change an index, so close it there, or send the change to the server that has it", .dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },

    /// The index was opened to be searched only.
    #[error("{} was opened to be searched only; open it for changes", .dir.display())]
    ReadOnly {
        /// The directory.
        dir: PathBuf,
    },

    /// The disk refused a batch of changes. Nothing of it is visible.
    #[error("nothing was changed: {0}")]
    NotApplied(#[source] Arc<IndexError>),

    /// The index is being closed.
    #[error("the index is being closed")]
    Closed,

    /// A number is larger than the format can store.
    #[error(
        "more {what} than an index can hold ({limit}); split the corpus (build --shard, and merge without --compact)"
    )]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The largest number possible.
        limit: u64,
    },

    /// An option has a value that makes no sense.
    #[error("{name} is {value}; it must be {allowed}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: usize,
        /// What is allowed.
        allowed: &'static str,
    },

    /// Indexes do not belong together.
    #[error("{} cannot be merged: {reason}", .dir.display())]
    NotMergeable {
        /// The first that does not belong to those before it.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },

    /// The database of a collection is away, or too slow.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The collection.
        address: String,
        /// What was seen.
        reason: String,
    },

    /// The database of a collection cannot store a passage.
    #[error("passage {id:?} {reason}")]
    NotStorable {
        /// The passage's id.
        id: String,
        /// Why not.
        reason: &'static str,
    },

    /// The database of a collection refuses a call, or holds something else than a collection.
    #[error("{address}: {reason}")]
    Remote {
        /// The collection.
        address: String,
        /// Why.
        reason: String,
    },

    /// Something else than an index stands where the index should go.
    #[error("{} exists and is not an onegen index, so it is not replaced; choose another directory or remove it", .dir.display())]
    NotReplaceable {
        /// The directory.
        dir: PathBuf,
    },
}

impl IndexError {
    /// Adapts an [`io::Error`]: `map_err(IndexError::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Fails unless vectors that one model has made can be compared with those of another.
    pub(crate) fn unless_comparable(
        index: &Fingerprints,
        model: &Fingerprints,
    ) -> Result<(), Self> {
        let differs = index.differences(model);
        if differs.is_empty() {
            return Ok(());
        }
        Err(Self::FingerprintMismatch {
            index: Box::new(index.clone()),
            model: Box::new(model.clone()),
            differs: differs.join(", "),
        })
    }

    pub(crate) fn damaged(file: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_path_buf(),
            reason: reason.into(),
        }
    }
}
