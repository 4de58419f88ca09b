//! Moves the directory of an index to another name, also where the file system cannot rename it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use crate::error::IndexError;
use crate::format::manifest::MANIFEST_FILE;
use crate::format::tracked::sync_dir;

/// Gives an index another name. A directory that lies in a lower layer of an overlay, as in a container's
/// image, cannot be renamed; it is copied then and removed.
///
/// # Errors
/// [`IndexError::Io`]; the index is then whole under one of both names.
pub fn move_directory(from: &Path, to: &Path) -> Result<(), IndexError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => move_by_copy(from, to),
        renamed => renamed.map_err(IndexError::io("rename", from)),
    }
}

/// Copies an index and removes it. The copy's manifest is written last, and the original's is removed
/// first, so that after a crash at least one of the two is an index, and each that is one is whole.
pub(crate) fn move_by_copy(from: &Path, to: &Path) -> Result<(), IndexError> {
    if let Err(error) = copy_index(from, to) {
        if let Err(error) = fs::remove_dir_all(to) {
            tracing::warn!(%error, dir = %to.display(), "a part of a copy could not be deleted");
        }
        return Err(error);
    }
    let manifest = from.join(MANIFEST_FILE);
    fs::remove_file(&manifest).map_err(IndexError::io("remove", &manifest))?;
    sync_dir(from)?;
    fs::remove_dir_all(from).map_err(IndexError::io("remove", from))
}

fn copy_index(from: &Path, to: &Path) -> Result<(), IndexError> {
    copy_directory(from, to, Some(MANIFEST_FILE))?;
    copy_file(&from.join(MANIFEST_FILE), &to.join(MANIFEST_FILE))?;
    sync_dir(to)?;
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

fn copy_directory(from: &Path, to: &Path, except: Option<&str>) -> Result<(), IndexError> {
    fs::create_dir(to).map_err(IndexError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(IndexError::io("read", from))? {
        let entry = entry.map_err(IndexError::io("read", from))?;
        let (path, name) = (entry.path(), entry.file_name());
        let file_type = entry.file_type().map_err(IndexError::io("read", &path))?;
        if except.is_some_and(|except| name == except) {
            continue;
        }
        if file_type.is_dir() {
            copy_directory(&path, &to.join(name), None)?;
        } else {
            copy_file(&path, &to.join(name))?;
        }
    }
    sync_dir(to)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), IndexError> {
    fs::copy(from, to)
        .and_then(|_| File::open(to)?.sync_all())
        .map_err(IndexError::io("write", to))
}
