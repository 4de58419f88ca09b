//! What is wrong with an index, and what can be done about it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::format::checked::FileSet;
use crate::format::log;
use crate::format::manifest::{MANIFEST_FILE, Manifest, SegmentRecord};
use crate::format::tracked::BLOCKS;
use crate::live::change;
use crate::segment::codes::CODES;
use crate::segment::graph::links::GRAPH;
use crate::segment::tombstones;
use crate::segment::{self, Segment};

/// What [`verify`] has seen.
#[derive(Debug)]
pub struct Verification {
    /// Files that were read to their end.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it; names the file too.
    pub error: IndexError,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The file is made of others: compacting the index makes it again. Until then
    /// what does not need it works.
    Compact,
    /// The file holds what is nowhere else: restore it, or build the index again.
    Restore,
}

/// Reads every byte of the index in `dir` and holds its files against their checksums and against
/// one another.
///
/// # Errors
/// [`IndexError::NotAnIndex`] and [`IndexError::Version`]: there is nothing to verify.
pub fn verify(dir: &Path) -> Result<Verification, IndexError> {
    loop {
        let before = Manifest::read(dir).ok();
        let verification = verify_once(dir)?;
        // Another process may have merged meanwhile, and removed what is missing here.
        if verification.findings.is_empty() || before == Manifest::read(dir).ok() {
            return Ok(verification);
        }
    }
}

fn verify_once(dir: &Path) -> Result<Verification, IndexError> {
    let mut verification = Verification {
        files: 1,
        bytes: 0,
        findings: Vec::new(),
    };
    let manifest_file = dir.join(MANIFEST_FILE);
    let manifest = match Manifest::read(dir) {
        Ok(manifest) => manifest,
        Err(error @ (IndexError::NotAnIndex { .. } | IndexError::Version { .. })) => {
            return Err(error);
        }
        Err(error) => {
            verification.found(manifest_file, error);
            return Ok(verification);
        }
    };
    verification.bytes += fs::metadata(&manifest_file).map_or(0, |m| m.len());
    for record in &manifest.segments {
        verification.segment(dir, record, manifest.dimension as usize);
    }
    for &number in &manifest.logs {
        let path = log::path(dir, number);
        verification.read(&path);
        let changes = log::read(dir, &manifest.index_id, number).and_then(|replay| {
            let decoded = replay.payloads.iter().try_for_each(|payload| {
                change::decode(payload, manifest.dimension as usize).map(|_| ())
            });
            decoded.map_err(|reason| IndexError::damaged(&path, reason))
        });
        if let Err(error) = changes {
            verification.found(path, error);
        }
    }
    Ok(verification)
}

impl Verification {
    fn segment(&mut self, index_dir: &Path, record: &SegmentRecord, dimension: usize) {
        let dir = index_dir.join(segment::directory_name(record.number));
        if let Some(tombstones) = &record.tombstones {
            let path = tombstones::path(index_dir, tombstones.number);
            self.read(&path);
            if let Err(error) = tombstones::read(index_dir, record) {
                self.found(path, error);
            }
        }
        let files = match FileSet::open(&dir, &record.files) {
            Ok(files) => files,
            Err(error) => return self.found(dir.join(BLOCKS), error),
        };
        let before = self.findings.len();
        for name in record.files.keys() {
            let path = dir.join(name);
            self.read(&path);
            if let Err(error) = files.map_verified(name) {
                self.found(path, error);
            }
        }
        // Only files that are what was written can contradict one another.
        if self.findings.len() == before {
            let opened = Segment::open(index_dir, record.clone(), dimension);
            if let Err(error) = opened.and_then(|segment| segment.verify()) {
                self.found(dir, error);
            }
        }
    }

    fn read(&mut self, path: &Path) {
        self.files += 1;
        self.bytes += fs::metadata(path).map_or(0, |metadata| metadata.len());
    }

    fn found(&mut self, file: PathBuf, error: IndexError) {
        let is = |name| file.file_name().is_some_and(|own| own == name);
        // Codes of another length would not even be opened.
        let wrong_codes = is(CODES) && matches!(error, IndexError::ChecksumMismatch { .. });
        let remedy = if is(GRAPH) || wrong_codes {
            Remedy::Compact
        } else {
            Remedy::Restore
        };
        self.findings.push(Finding {
            file,
            error,
            remedy,
        });
    }
}
