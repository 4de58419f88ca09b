//! A directory that is written beside its target and finally replaces it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::format;
use crate::format::lock::{DirectoryLock, LOCK_FILE, lock_directory};
use crate::format::manifest::{MANIFEST_FILE, Manifest};
use crate::format::move_directory::move_directory;
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
        let mut removed = Vec::new();
        for &name in unneeded {
            if let Some(content) = self.read(name)? {
                let path = self.path.join(name);
                fs::remove_file(&path).map_err(IndexError::io("remove", &path))?;
                removed.push((path, content));
            }
        }
        sync_dir(&self.path)?;
        let renamed = if replaces {
            exchange(&self.path, &self.target)
        } else {
            rename(&self.path, &self.target)
        };
        if let Err(error) = renamed {
            // The next build goes on from here.
            for (path, content) in removed {
                if let Err(error) = fs::write(&path, content) {
                    tracing::warn!(%error, file = %path.display(), "a file could not be restored");
                }
            }
            return Err(error);
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
        // Some file systems cannot exchange names in one step. An overlay cannot rename a directory of a
        // lower layer.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::XDEV) => {
            exchange_by_three(new, old)
        }
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
    move_directory(old, &aside)?;
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
        // A copy that is not whole.
        (false, _) if aside.is_dir() => remove_remains(&aside),
        (false, _) => Ok(()),
        (true, false) => {
            remove_remains(target)?;
            rename(&aside, target)
        }
        (true, true) => format::remove(&aside),
    }
}

/// Removes a part of an index: one that was being copied, or removed after that.
fn remove_remains(target: &Path) -> Result<(), IndexError> {
    let entries = match fs::read_dir(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(IndexError::io("read", target))?,
    };
    for entry in entries {
        let name = entry.map_err(IndexError::io("read", target))?.file_name();
        let name = name.to_string_lossy();
        let of_an_index = [
            "segment-",
            "changes-",
            "tombstones-",
            LOCK_FILE,
            MANIFEST_FILE,
        ];
        if !of_an_index.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(IndexError::NotReplaceable { dir: target.into() });
        }
    }
    format::remove(target)
}

/// Fails if `target` holds anything but an index, or what is left of one whose copy is beside it.
fn refuse_foreign(target: &Path) -> Result<(), IndexError> {
    match fs::read_dir(target) {
        Ok(mut entries) => {
            let is_index = || Manifest::marks(target);
            let is_copied = || Ok::<_, IndexError>(Manifest::marks(&sibling(target, "replaced")?));
            if entries.next().is_none() || is_index() || is_copied()? {
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
    use crate::format::move_directory::move_by_copy;
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

    #[test]
    fn an_index_that_was_copied_away_is_there_again_whenever_that_was_interrupted() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let aside = sibling(&dir, "replaced").unwrap();
        let dimension = || Index::open(&dir).unwrap().manifest().dimension;
        let recovered = || {
            drop(Staging::begin(&dir).unwrap());
            assert_eq!(dimension(), 1);
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        };
        build(&dir, 1);
        move_by_copy(&dir, &aside).unwrap();
        assert!(!dir.exists());
        recovered();

        // A copy without its last file, the manifest.
        fs::create_dir(&aside).unwrap();
        fs::copy(
            dir.join("changes-000002.log"),
            aside.join("changes-000002.log"),
        )
        .unwrap();
        recovered();

        // The original is removed in part.
        move_by_copy(&dir, &aside).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("changes-000002.log"), "rest").unwrap();
        recovered();

        // Something else took its place.
        move_by_copy(&dir, &aside).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        assert!(matches!(
            Staging::begin(&dir),
            Err(IndexError::NotReplaceable { .. })
        ));
        assert!(Manifest::marks(&aside) && dir.join("notes.txt").exists());
    }
}
