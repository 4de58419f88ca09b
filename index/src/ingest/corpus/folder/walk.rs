//! Finds the files of a folder that are read, and counts the others.
//!
//! Symbolic links are followed within the folder, so that a mounted ConfigMap, whose files are links into a
//! hidden directory, is read. Each file is read once: at its own path, or at the first link by which it is
//! seen where its own path is hidden. Links that lead out of the folder are left out, since what is outside
//! does not belong to the corpus.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, FileType, Metadata};
use std::io::{self, ErrorKind};
use std::mem;
use std::path::{Path, PathBuf};

use super::kind::Kind;
use crate::ingest::corpus::identity;
use crate::ingest::corpus::left_out::LeftOut;
use crate::ingest::corpus::source::CorpusError;

/// A file of a folder that is read.
pub(super) struct CorpusFile {
    /// The path relative to the folder.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    /// See [`identity::stamp`].
    pub(super) stamp: [u8; 24],
}

/// The files below a directory that are read, by path, and what is not read there.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn walk(dir: &Path) -> Result<(Vec<CorpusFile>, LeftOut), CorpusError> {
    let root = fs::canonicalize(dir).map_err(CorpusError::io(dir))?;
    let mut walk = Walk {
        dirs: [root.clone()].into(),
        root,
        ..Walk::default()
    };
    walk.list(PathBuf::new(), walk.root.clone())?;
    // Links are followed after everything that can be read at a path of its own.
    while !walk.links.is_empty() {
        let mut links = mem::take(&mut walk.links);
        links.sort();
        for link in links {
            walk.follow(link)?;
        }
    }
    let Walk { mut files, .. } = walk;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, left_out(walk.passed, &walk.read)))
}

/// What is not read, except for what is read by another path.
fn left_out(mut passed: Vec<Passed>, read: &HashSet<PathBuf>) -> LeftOut {
    let read_below: HashSet<&Path> = read.iter().flat_map(|file| file.ancestors()).collect();
    passed.retain(|one| {
        !one.real
            .as_deref()
            .is_some_and(|real| read_below.contains(real))
    });
    passed.sort_by(|a, b| a.path.cmp(&b.path));
    let mut left_out = LeftOut::default();
    for one in passed {
        left_out.add(one.reason, one.path.to_string_lossy());
    }
    left_out
}

#[derive(Default)]
struct Walk {
    root: PathBuf,
    files: Vec<CorpusFile>,
    /// Links that are not followed yet.
    links: Vec<PathBuf>,
    passed: Vec<Passed>,
    /// The real paths of the files that are read, and of the directories that were listed.
    read: HashSet<PathBuf>,
    dirs: HashSet<PathBuf>,
}

/// An entry of a directory that is not read.
struct Passed {
    path: PathBuf,
    /// Its real path, if it may be read by another path.
    real: Option<PathBuf>,
    reason: &'static str,
}

impl Walk {
    /// Lists what is below a directory, which is seen at `path` and really at `real`.
    fn list(&mut self, path: PathBuf, real: PathBuf) -> Result<(), CorpusError> {
        let mut pending = vec![(path, real)];
        while let Some((path, real)) = pending.pop() {
            let entries = match entries(&real) {
                Ok(entries) => entries,
                // The rest of the folder is read; an entry that went away is not missed.
                Err(error) if !path.as_os_str().is_empty() && is_passable(&error) => {
                    self.pass(path, None, "that cannot be read");
                    continue;
                }
                Err(error) => return Err(CorpusError::io(&real)(error)),
            };
            for (name, file_type) in entries {
                let (path, real) = (path.join(&name), real.join(&name));
                if is_hidden(&name) {
                    let real = fs::canonicalize(&real).ok();
                    self.pass(path, real, "hidden");
                } else if file_type.is_symlink() {
                    self.links.push(path);
                } else if file_type.is_dir() {
                    if self.dirs.insert(real.clone()) {
                        pending.push((path, real));
                    }
                } else {
                    self.file(path, real);
                }
            }
        }
        Ok(())
    }

    /// Reads what a link leads to.
    fn follow(&mut self, path: PathBuf) -> Result<(), CorpusError> {
        let real = match fs::canonicalize(self.root.join(&path)) {
            Ok(real) => real,
            Err(error) => {
                self.pass(path, None, unfollowed(&error));
                return Ok(());
            }
        };
        if !real.starts_with(&self.root) {
            self.pass(path, None, "linked out of the folder");
        } else if !real.is_dir() {
            self.file(path, real);
        } else if self.dirs.insert(real.clone()) {
            self.list(path, real)?;
        } else {
            self.pass(path, None, "linked to a directory that is read elsewhere");
        }
        Ok(())
    }

    /// Adds a file, unless it is read already or is of no kind that is read.
    fn file(&mut self, path: PathBuf, real: PathBuf) {
        let metadata = match fs::metadata(&real) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return self.pass(path, None, "neither a file nor a directory"),
            Err(_) => return self.pass(path, None, "that cannot be read"),
        };
        match Kind::from_path(&path) {
            None => self.pass(path, Some(real), "of an ending that is not read"),
            Some(_) if self.read.contains(&real) => {
                self.pass(path, None, "linked to a file that is read elsewhere");
            }
            Some(kind) => {
                self.read.insert(real);
                self.files.push(CorpusFile::new(path, kind, &metadata));
            }
        }
    }

    fn pass(&mut self, path: PathBuf, real: Option<PathBuf>, reason: &'static str) {
        self.passed.push(Passed { path, real, reason });
    }
}

impl CorpusFile {
    fn new(path: PathBuf, kind: Kind, metadata: &Metadata) -> Self {
        Self {
            path,
            kind,
            bytes: metadata.len(),
            stamp: identity::stamp(metadata),
        }
    }
}

/// Names and types of a directory's entries. The type of a link is that of the link itself.
fn entries(dir: &Path) -> io::Result<Vec<(std::ffi::OsString, FileType)>> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?))
        })
        .collect()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_passable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::NotFound
    )
}

/// Why a link could not be followed.
fn unfollowed(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "linked to nothing",
        ErrorKind::PermissionDenied => "that cannot be read",
        // What is left is a circle of links; its kind of error has no stable name.
        _ => "linked in a circle",
    }
}
