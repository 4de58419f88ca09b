//! A directory that is written beside its target and takes its place in the end.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::IndexError;
use crate::manifest::Manifest;

/// A directory under construction. Dropped unpublished, it removes itself.
pub(crate) struct Staging {
    target: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Staging {
    /// Makes an empty directory beside `target`, which must be free, empty, or an index that may be
    /// replaced.
    pub(crate) fn create(target: &Path) -> Result<Self, IndexError> {
        refuse_foreign(target)?;
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(IndexError::io("create", parent))?;
        loop {
            let path = sibling(target, "building")?;
            match fs::create_dir(&path) {
                Ok(()) => {
                    return Ok(Self {
                        target: target.into(),
                        path,
                        published: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(IndexError::io("create", &path)(error)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its target's name. What stood there is moved aside first and deleted
    /// last, so that at every moment either the old or the new index is on the disk, whole.
    pub(crate) fn publish(mut self) -> Result<(), IndexError> {
        refuse_foreign(&self.target)?;
        sync_dir(&self.path)?;
        let aside = if self.target.exists() {
            let aside = sibling(&self.target, "replaced")?;
            fs::rename(&self.target, &aside).map_err(IndexError::io("move aside", &self.target))?;
            Some(aside)
        } else {
            None
        };
        if let Err(error) = fs::rename(&self.path, &self.target) {
            if let Some(aside) = &aside {
                fs::rename(aside, &self.target).map_err(IndexError::io("move back", aside))?;
            }
            return Err(IndexError::io("rename", &self.path)(error));
        }
        self.published = true;
        sync_dir(parent(&self.target))?;
        if let Some(aside) = aside
            && let Err(error) = fs::remove_dir_all(&aside)
        {
            tracing::warn!(%error, dir = %aside.display(), "the replaced index could not be deleted");
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, dir = %self.path.display(), "an unfinished index could not be deleted");
        }
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

/// A hidden name beside `target` that no other build of this or another process uses.
fn sibling(target: &Path, purpose: &str) -> Result<PathBuf, IndexError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Some(name) = target.file_name() else {
        return Err(IndexError::NotReplaceable { dir: target.into() });
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    Ok(parent(target).join(format!(
        ".{}.{purpose}-{process}-{number}",
        name.to_string_lossy()
    )))
}

/// Puts a directory's entries on the disk.
fn sync_dir(dir: &Path) -> Result<(), IndexError> {
    // Only Unix can open a directory to sync it; elsewhere renames are durable enough.
    if cfg!(unix) {
        let handle = File::open(dir).map_err(IndexError::io("open", dir))?;
        handle.sync_all().map_err(IndexError::io("sync", dir))?;
    }
    Ok(())
}
