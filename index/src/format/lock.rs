//! The lock that keeps two writers out of one directory.

#[cfg(unix)]
use std::fs::{self, Metadata};
use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::IndexError;

/// The file that writers lock to exclude one another.
pub(crate) const LOCK_FILE: &str = "writer.lock";

/// Keeps other writers out of a directory until it is dropped.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that was just started may still have it
        // open.
        let _ = self.0.unlock();
    }
}

/// Locks a directory against other writers.
pub(crate) fn lock_directory(dir: &Path) -> Result<DirectoryLock, IndexError> {
    let path = dir.join(LOCK_FILE);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(IndexError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) if stands_at(&file, &path) => return Ok(DirectoryLock(file)),
            // Here a build has replaced the whole directory since the file was opened.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IndexError::Locked { dir: dir.into() }),
            Err(TryLockError::Error(error)) => return Err(IndexError::io("lock", &path)(error)),
        }
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn stands_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (opened, standing) = (file.metadata().map(place), fs::metadata(path).map(place));
    opened.is_ok_and(|opened| standing.is_ok_and(|standing| opened == standing))
}

#[cfg(not(unix))]
fn stands_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_lock_in_a_directory_that_was_replaced_is_no_lock() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(LOCK_FILE);
        let lock = lock_directory(home.path()).unwrap();
        assert!(stands_at(&lock.0, &path));
        fs::rename(&path, home.path().join("aside")).unwrap();
        assert!(!stands_at(&lock.0, &path));
        let _other = lock_directory(home.path()).unwrap();
        assert!(!stands_at(&lock.0, &path));
    }

    #[test]
    fn a_lock_ends_with_its_holder_although_another_process_inherited_the_file() {
        let home = tempfile::tempdir().unwrap();
        let lock = lock_directory(home.path()).unwrap();
        let _inherited = lock.0.try_clone().unwrap();
        assert!(lock_directory(home.path()).is_err());
        drop(lock);
        lock_directory(home.path()).unwrap();
    }
}
