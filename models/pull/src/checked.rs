//! Reads files to their end and checks their length and checksum.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::base::PinnedFile;
use crate::error::PullError;

/// Checks that the file at `path` is the pinned one.
///
/// # Errors
/// It is another file, or cannot be read.
pub(crate) fn check(path: &Path, pinned: &PinnedFile) -> Result<(), PullError> {
    let file = open(path)?;
    check_length(
        path,
        file.metadata().map_err(PullError::io("read", path))?.len(),
        pinned,
    )?;
    copy(file, path, &mut io::sink(), path, pinned, "checking")
}

/// Copies `from` to a new file at `to`, syncs it, and checks that it is the pinned one. `path` is the
/// source, for errors.
///
/// # Errors
/// It is another file, or cannot be read or written. The file at `to` is then incomplete or wrong.
pub(crate) fn write(
    from: impl Read,
    path: &Path,
    to: &Path,
    pinned: &PinnedFile,
) -> Result<(), PullError> {
    let mut file = File::create(to).map_err(|error| unwritten(error, to, pinned))?;
    copy(from, path, &mut file, to, pinned, "unpacking")?;
    file.sync_all()
        .map_err(|error| unwritten(error, to, pinned))
}

pub(crate) fn open(path: &Path) -> Result<File, PullError> {
    File::open(path).map_err(PullError::io("open", path))
}

/// Checks only the length, which detects a truncated file without reading it.
pub(crate) fn check_length(path: &Path, got: u64, pinned: &PinnedFile) -> Result<(), PullError> {
    if got == pinned.bytes {
        return Ok(());
    }
    Err(PullError::Length {
        path: path.to_owned(),
        name: pinned.name,
        got,
        expected: pinned.bytes,
    })
}

fn copy(
    mut from: impl Read,
    path: &Path,
    into: &mut impl Write,
    to: &Path,
    pinned: &PinnedFile,
    doing: &'static str,
) -> Result<(), PullError> {
    let bar = progress(doing, pinned);
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(PullError::io("read", path)(error)),
        };
        hasher.update(&buffer[..got]);
        into.write_all(&buffer[..got])
            .map_err(|error| unwritten(error, to, pinned))?;
        bytes += got as u64;
        bar.set_position(bytes);
    }
    bar.finish_and_clear();
    check_length(path, bytes, pinned)?;
    let got = format!("{:x}", hasher.finalize());
    if got == pinned.sha256 {
        return Ok(());
    }
    Err(PullError::Checksum {
        path: path.to_owned(),
        name: pinned.name,
        got,
        expected: pinned.sha256,
    })
}

/// The error for a failure while `path` was written.
fn unwritten(error: io::Error, path: &Path, pinned: &PinnedFile) -> PullError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => PullError::DiskFull {
            dir: path.parent().unwrap_or(path).to_owned(),
            needed: pinned.bytes,
        },
        _ => PullError::io("write", path)(error),
    }
}

/// Checks that the disk of `dir` has room for `needed` bytes.
///
/// # Errors
/// It has not.
pub(crate) fn check_room(dir: &Path, needed: u64) -> Result<(), PullError> {
    // If the system does not report the free space, a lack of it shows when writing.
    let Ok(disk) = rustix::fs::statvfs(dir) else {
        return Ok(());
    };
    if disk.f_bavail.saturating_mul(disk.f_frsize) >= needed {
        return Ok(());
    }
    Err(PullError::DiskFull {
        dir: dir.to_owned(),
        needed,
    })
}

/// Moves a complete file to its place, in one step.
///
/// # Errors
/// The operating system refuses.
pub(crate) fn put(from: &Path, to: &Path) -> Result<(), PullError> {
    fs::rename(from, to).map_err(PullError::io("write", to))?;
    let dir = to.parent().unwrap_or(to);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(PullError::io("write", dir))
}

/// A progress bar, which is drawn only on a terminal.
fn progress(doing: &'static str, pinned: &PinnedFile) -> ProgressBar {
    let bar = ProgressBar::new(pinned.bytes).with_message(format!("{doing} {}", pinned.name));
    match ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: PinnedFile = PinnedFile {
        name: "nothing",
        bytes: 3,
        sha256: "",
    };

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_as_such() {
        let full = write(
            &b"abc"[..],
            Path::new("from"),
            Path::new("/dev/full"),
            &NOTHING,
        );
        let told = full.unwrap_err().to_string();
        assert!(
            told.contains("too full") && told.contains("--data-dir"),
            "{told}"
        );
        let room = check_room(Path::new("."), u64::MAX).unwrap_err();
        assert!(
            matches!(
                room,
                PullError::DiskFull {
                    needed: u64::MAX,
                    ..
                }
            ),
            "{room}"
        );
        check_room(Path::new("."), 1).unwrap();
    }
}
