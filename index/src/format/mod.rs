//! The on-disk format of an index: the manifest, the log of changes, files with checksums, and the
//! lock.

pub(crate) mod blocks;
pub(crate) mod checked;
pub(crate) mod document_rules;
pub(crate) mod file_record;
pub(crate) mod graph_record;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod manifest;
pub(crate) mod move_directory;
pub(crate) mod rows;
pub(crate) mod shard;
pub(crate) mod tracked;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::IndexError;

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Removes a file, or a directory with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), IndexError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(IndexError::io("remove", path))
}
