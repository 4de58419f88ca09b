//! `manifest.json`: what an index is, what made it, and the checksum of every file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::format::file_record::FileRecord;
use crate::format::graph_record::{GraphParameters, GraphRecord};
use crate::format::shard::Shard;
use crate::format::{tracked, unix_seconds};

/// Name of the manifest in the directory of an index.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Version of the directory's format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 2;

const FORMAT: &str = "onegen-index";

// Takes the place of the manifest's own checksum while the checksum is computed.
const BLANK_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Describes an index: what made it, and every file that belongs to it. The manifest is replaced
/// whole whenever the set of files changes. A file that it does not name is not part of the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `onegen-index`.
    pub format: String,
    /// Version of the directory's format.
    pub format_version: u32,
    /// Distinguishes this index from every other. Its logs contain it.
    pub index_id: String,
    /// When the index was built, in seconds since 1970.
    pub created_unix_seconds: u64,
    /// Width of every vector.
    pub dimension: u32,
    /// What scores mean.
    pub metric: Metric,
    /// The model, tokenizer and template that made the vectors.
    pub fingerprints: Fingerprints,
    /// How graphs are built.
    pub graph: GraphParameters,
    /// Vectors up to which a segment gets no graph and is scanned.
    pub exact_scan_limit: u32,
    /// How the documents of its corpus became passages and vectors. `None` if the index was not built
    /// from a corpus, or was built before this was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<DocumentRules>,
    /// Identifies the model and kernels whose keys and values are kept with the passages. `None` if none were kept
    /// when the index was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passage_kv: Option<String>,
    /// The part of a corpus that was built. `None` if it was the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// The segments, oldest first.
    pub segments: Vec<SegmentRecord>,
    /// Numbers of the logs with the changes after the segments, oldest first. New changes are
    /// appended to the last.
    pub logs: Vec<u64>,
    /// Number that the next segment, log or tombstone file gets.
    pub next_number: u64,
    /// blake3 of this file with 64 zeros in this place, hexadecimal.
    pub checksum: String,
}

/// One immutable part of an index: a directory of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRecord {
    /// Number in the name of its directory.
    pub number: u64,
    /// Number of passages, deleted ones included.
    pub passages: u32,
    /// Number of vectors; several may belong to one passage.
    pub vectors: u32,
    /// The graph. A segment without one is scanned.
    pub graph: Option<GraphRecord>,
    /// Length and checksum of its files.
    pub files: BTreeMap<String, FileRecord>,
    /// The file beside its directory that says which of its passages are deleted, if any are.
    pub tombstones: Option<TombstoneRecord>,
}

/// Which passages of a segment were deleted when its logs were last merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TombstoneRecord {
    /// Number in the name of the file.
    pub number: u64,
    /// How many there are.
    pub passages: u32,
    /// Length and checksum of the file.
    pub file: FileRecord,
}

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Cosine of the angle, in f32: 1 is the same direction.
    Cosine,
}

/// The part of a manifest that every version has.
#[derive(Deserialize)]
struct Header {
    format: String,
    format_version: u64,
}

impl Manifest {
    /// A manifest of no segment and no log.
    pub(crate) fn new(
        dimension: u32,
        fingerprints: Fingerprints,
        graph: GraphParameters,
        exact_scan_limit: u32,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            index_id: Uuid::new_v4().simple().to_string(),
            created_unix_seconds: unix_seconds(),
            dimension,
            metric: Metric::Cosine,
            fingerprints,
            graph,
            exact_scan_limit,
            documents: None,
            passage_kv: None,
            shard: None,
            segments: Vec::new(),
            logs: Vec::new(),
            next_number: 1,
            checksum: BLANK_CHECKSUM.into(),
        }
    }

    /// A number for a new file.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The numbers of all files and directories that the manifest names.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        let segments = self.segments.iter().map(|segment| segment.number);
        let tombstones = self.segments.iter().filter_map(|s| s.tombstones.as_ref());
        let logs = self.logs.iter().copied();
        segments.chain(tombstones.map(|t| t.number)).chain(logs)
    }

    /// Reads the manifest of the index in `dir` and verifies its version and its own checksum.
    ///
    /// # Errors
    /// [`IndexError::NotAnIndex`] without a manifest, [`IndexError::Version`] for another format
    /// version, [`IndexError::Damaged`] or [`IndexError::ChecksumMismatch`] for a manifest that was
    /// changed.
    pub fn read(dir: &Path) -> Result<Self, IndexError> {
        let file = dir.join(MANIFEST_FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let reason = if dir.is_dir() {
                    "it has no manifest.json"
                } else {
                    "it does not exist"
                };
                return Err(IndexError::NotAnIndex {
                    dir: dir.into(),
                    reason: reason.into(),
                });
            }
            Err(error) => return Err(IndexError::io("read", &file)(error)),
        };
        let damaged = |e: serde_json::Error| IndexError::damaged(&file, e.to_string());
        let header: Header = serde_json::from_slice(&bytes).map_err(damaged)?;
        if header.format != FORMAT {
            let reason = format!("its manifest.json is of the format {:?}", header.format);
            return Err(IndexError::NotAnIndex {
                dir: dir.into(),
                reason,
            });
        }
        if header.format_version != u64::from(FORMAT_VERSION) {
            return Err(IndexError::Version {
                file,
                expected: FORMAT_VERSION,
                got: header.format_version,
            });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        let got = own_checksum(&bytes, &manifest.checksum);
        if got != manifest.checksum {
            return Err(IndexError::ChecksumMismatch {
                file,
                expected: manifest.checksum,
                got,
            });
        }
        Ok(manifest)
    }

    /// Replaces the manifest of the index in `dir`.
    pub(crate) fn write(&mut self, dir: &Path) -> Result<(), IndexError> {
        let path = dir.join(MANIFEST_FILE);
        let sealed = self
            .seal()
            .map_err(|e| IndexError::io("write", &path)(e.into()))?;
        tracked::replace(&path, &sealed)
    }

    /// Bytes of the files of all segments.
    pub fn bytes(&self) -> u64 {
        let files = self.segments.iter().flat_map(|s| s.files.values());
        files.map(|record| record.length).sum()
    }

    /// The manifest as it is written, with its own checksum in place.
    fn seal(&mut self) -> Result<Vec<u8>, serde_json::Error> {
        self.checksum = BLANK_CHECKSUM.into();
        let mut blank = serde_json::to_vec_pretty(self)?;
        blank.push(b'\n');
        self.checksum = blake3::hash(&blank).to_hex().to_string();
        let mut sealed = serde_json::to_vec_pretty(self)?;
        sealed.push(b'\n');
        Ok(sealed)
    }

    /// Whether `dir` holds an index of any version, damaged or not.
    pub(crate) fn marks(dir: &Path) -> bool {
        fs::read(dir.join(MANIFEST_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Header>(&bytes).ok())
            .is_some_and(|header| header.format == FORMAT)
    }
}

/// blake3 of a manifest with its `checksum` blanked.
fn own_checksum(bytes: &[u8], checksum: &str) -> String {
    let mut blank = bytes.to_vec();
    let place = (!checksum.is_empty() && checksum.len() == BLANK_CHECKSUM.len())
        .then(|| {
            bytes
                .windows(checksum.len())
                .rposition(|w| w == checksum.as_bytes())
        })
        .flatten();
    if let Some(at) = place {
        blank[at..at + checksum.len()].copy_from_slice(BLANK_CHECKSUM.as_bytes());
    }
    blake3::hash(&blank).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fingerprints;

    #[test]
    fn every_changed_byte_of_a_manifest_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let graph = GraphParameters {
            m: 16,
            ef_construction: 200,
        };
        let mut manifest = Manifest::new(8, fingerprints("m"), graph, 7);
        let sealed = manifest.seal().unwrap();
        let file = dir.path().join(MANIFEST_FILE);
        fs::write(&file, &sealed).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        for at in 0..sealed.len() {
            for bit in [0, 5] {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                fs::write(&file, &changed).unwrap();
                let error = Manifest::read(dir.path()).unwrap_err();
                assert!(
                    error.to_string().contains(MANIFEST_FILE),
                    "byte {at}: {error}"
                );
            }
        }
    }
}
