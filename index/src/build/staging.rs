//! A directory that is written beside its target and finally replaces it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::format;
use crate::format::lock::{DirectoryLock, LOCK_FILE, lock_directory};
use crate::format::manifest::Manifest;
use crate::format::tracked::sync_dir;

/// A directory under construction, which one builder at a time may hold. If it is dropped before it
/// was published, it removes itself, unless [`Staging::keep`] was called.
pub(crate) struct Staging {
    target: PathBuf,
    path: PathBuf,
    keep: bool,
    // Held until the end.
    _lock: DirectoryLock,
}

impl Staging {
    /// Opens or makes the directory beside `target`, which must be free, empty, or an index that may
    /// be replaced.
    pub(crate) fn begin(target: &Path) -> Result<Self, IndexError> {
        refuse_foreign(target)?;
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(IndexError::io("create", parent))?;
        let path = sibling(target, "building")?;
        fs::create_dir_all(&path).map_err(IndexError::io("create", &path))?;
        let lock = lock_directory(&path)?;
        end_exchange_by_three(target)?;
        Ok(Self {
            target: target.into(),
            path,
            keep: false,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory for the next builder if this one does not finish.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Undoes [`Staging::keep`].
    pub(crate) fn discard(&mut self) {
        self.keep = false;
    }

    /// The content of a file, if it is there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IndexError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(IndexError::io("read", &path)(error)),
        }
    }

    /// Removes everything in the directory except the lock and the names in `staying`.
    pub(crate) fn clear_except(&self, staying: &[&str]) -> Result<(), IndexError> {
        let dir = &self.path;
        for entry in fs::read_dir(dir).map_err(IndexError::io("read", dir))? {
            let entry = entry.map_err(IndexError::io("read", dir))?;
            let (path, name) = (entry.path(), entry.file_name());
            if name == LOCK_FILE || staying.iter().any(|staying| name == *staying) {
                continue;
            }
            format::remove(&path)?;
        }
        Ok(())
    }

    /// Removes files that the builder needed, and gives the directory its target's name. At every
    /// moment either the old or the new index is on the disk, whole, under its name.
    pub(crate) fn publish(mut self, unneeded: &[&str]) -> Result<(), IndexError> {
        refuse_foreign(&self.target)?;
        let replaces = self.target.exists();
        // The lock ensures that no process changes the old index while it is replaced.
        let _old = if replaces && Manifest::marks(&self.target) {
            Some(lock_directory(&self.target)?)
        } else {
            None
        };
        for name in unneeded {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(IndexError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        sync_dir(&self.path)?;
        if replaces {
            exchange(&self.path, &self.target)?
        } else {
            rename(&self.path, &self.target)?
        }
        // The old index now has the staging name. It is removed only when the disk is known to hold
        // the new one.
        self.keep = true;
        sync_dir(parent(&self.target))?;
        if replaces && let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, dir = %self.path.display(), "the replaced index could not be deleted");
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, dir = %self.path.display(), "an unfinished index could not be deleted");
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), IndexError> {
    fs::rename(from, to).map_err(IndexError::io("rename", from))
}

/// Swaps the names of two directories in one step.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, old: &Path) -> Result<(), IndexError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // Some file systems cannot exchange names in one step.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => exchange_by_three(new, old),
        Err(error) => Err(IndexError::io("rename", new)(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, old: &Path) -> Result<(), IndexError> {
    exchange_by_three(new, old)
}

/// Does the same as [`exchange`] in three steps. Between the first two, the old index has another
/// name.
fn exchange_by_three(new: &Path, old: &Path) -> Result<(), IndexError> {
    let aside = sibling(old, "replaced")?;
    rename(old, &aside)?;
    if let Err(error) = rename(new, old) {
        rename(&aside, old)?;
        return Err(error);
    }
    rename(&aside, new)
}

/// Finishes an exchange that a crash interrupted in [`exchange_by_three`].
fn end_exchange_by_three(target: &Path) -> Result<(), IndexError> {
    let aside = sibling(target, "replaced")?;
    match (Manifest::marks(&aside), Manifest::marks(target)) {
        (false, _) => Ok(()),
        (true, false) => rename(&aside, target),
        (true, true) => fs::remove_dir_all(&aside).map_err(IndexError::io("remove", &aside)),
    }
}

/// Fails if `target` holds anything but an index.
fn refuse_foreign(target: &Path) -> Result<(), IndexError> {
    match fs::read_dir(target) {
        Ok(mut entries) => {
            if entries.next().is_none() || Manifest::marks(target) {
                return Ok(());
            }
            Err(IndexError::NotReplaceable { dir: target.into() })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(IndexError::NotReplaceable { dir: target.into() })
        }
        Err(error) => Err(IndexError::io("read", target)(error)),
    }
}

fn parent(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A hidden name beside `target`.
fn sibling(target: &Path, purpose: &str) -> Result<PathBuf, IndexError> {
    let Some(name) = target.file_name() else {
        return Err(IndexError::NotReplaceable { dir: target.into() });
    };
    Ok(parent(target).join(format!(".{}.{purpose}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::builder::{BuildOptions, IndexBuilder};
    use crate::live::index::Index;
    use crate::testing::fingerprints;

    fn build(dir: &Path, dimension: usize) {
        let fingerprints = fingerprints("m");
        let options = BuildOptions::new(dimension, fingerprints);
        let builder = IndexBuilder::create(dir, options).unwrap();
        builder.finish().unwrap();
    }

    #[test]
    fn an_exchange_in_three_steps_that_was_interrupted_is_ended_by_the_next_build() {
        let home = tempfile::tempdir().unwrap();
        let (dir, new) = (home.path().join("index"), home.path().join("new"));
        let dimension = || Index::open(&dir).unwrap().manifest().dimension;
        build(&dir, 1);
        build(&new, 2);
        exchange_by_three(&new, &dir).unwrap();
        assert_eq!(dimension(), 2);

        // This is the state after the first step: the target is gone.
        let aside = sibling(&dir, "replaced").unwrap();
        rename(&dir, &aside).unwrap();
        drop(Staging::begin(&dir).unwrap());
        assert_eq!(dimension(), 2);
        // This is the state after the second step: the old index has the name that the next
        // exchange needs.
        rename(&new, &aside).unwrap();
        drop(Staging::begin(&dir).unwrap());
        assert_eq!(dimension(), 2);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
