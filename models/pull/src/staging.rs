//! The directory for a file that is being fetched, until it is complete.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::PullError;

/// A directory beside the kept files, so that a rename can move a file there. Only one program at a time
/// has it. Files that a killed program has left are removed by the next. Dropping it removes the
/// directory.
pub(crate) struct Staging {
    dir: PathBuf,
    /// The directory of kept files, which is locked as long as this is open.
    _lock: File,
}

impl Staging {
    /// # Errors
    /// Another program has it, or the operating system refuses.
    pub(crate) fn open(kept: &Path) -> Result<Self, PullError> {
        fs::create_dir_all(kept).map_err(PullError::io("create", kept))?;
        let lock = File::open(kept).map_err(PullError::io("open", kept))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PullError::Busy {
                    dir: kept.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(PullError::io("lock", kept)(error)),
        }
        let dir = kept.join(".pull");
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(PullError::io("remove", &dir)(error));
            }
            _ => fs::create_dir(&dir).map_err(PullError::io("create", &dir))?,
        }
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If this fails, the next program removes the directory.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
