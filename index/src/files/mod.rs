//! Files that are trusted: checksums by blocks, writing, reading, and putting a directory in its place.

pub(crate) mod blocks;
pub(crate) mod checked;
pub(crate) mod staging;
pub(crate) mod tracked;

use std::fs;
use std::path::Path;

use crate::error::IndexError;

/// Removes a file, or a directory with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), IndexError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(IndexError::io("remove", path))
}
