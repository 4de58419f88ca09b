//! Files that are checked: written with their checksum, and read only after it is verified.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::IndexError;
use crate::manifest::{FileRecord, MANIFEST_FILE, Manifest};

/// One JSON object a line, in passage order.
pub(crate) const PASSAGES: &str = "passages.jsonl";
/// Where each line begins, and the end: u64, one more than passages.
pub(crate) const OFFSETS: &str = "passages.offsets";
/// Passages by id: 16 bytes of the id's blake3 and the passage number (u32), sorted.
pub(crate) const IDS: &str = "passages.ids";
/// Unit vectors: f32, one after the other.
pub(crate) const VECTORS: &str = "vectors.f32";
/// int8 codes of the vectors, each padded to whole cache lines, see [`crate::codes`].
pub(crate) const CODES: &str = "vectors.i8";
/// What the codes are multiplied by and the norm of what they lack: two f32 a vector.
pub(crate) const SCALES: &str = "vectors.scales";
/// The passage of each vector: u32.
pub(crate) const OWNERS: &str = "vectors.passages";
/// The links of the graph, see [`crate::links`].
pub(crate) const GRAPH: &str = "graph.links";

// Numbers are little-endian in the files and are used where they are mapped.
#[cfg(target_endian = "big")]
compile_error!("an index is read in place, which needs a little-endian machine");

/// A file being written, with its length and checksum.
pub(crate) struct TrackedFile {
    path: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    length: u64,
}

impl TrackedFile {
    pub(crate) fn create(path: PathBuf) -> Result<Self, IndexError> {
        let file = File::create_new(&path).map_err(IndexError::io("create", &path))?;
        Ok(Self {
            path,
            out: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
            length: 0,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        self.out
            .write_all(bytes)
            .map_err(IndexError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Puts the file on the disk and says what it is.
    pub(crate) fn finish(self) -> Result<FileRecord, IndexError> {
        let Self {
            path,
            out,
            hasher,
            length,
        } = self;
        let file = out
            .into_inner()
            .map_err(|e| IndexError::io("write", &path)(e.into_error()))?;
        file.sync_all().map_err(IndexError::io("sync", &path))?;
        Ok(FileRecord {
            length,
            blake3: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// A mapped file and its path, for errors.
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: Mmap,
}

impl MappedFile {
    /// Maps a file without looking at it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, IndexError> {
        let file = File::open(&path).map_err(IndexError::io("open", &path))?;
        // SAFETY: files of an index are never written again once they bear their name: a new index
        // gets new files and the directory is renamed. That nobody else writes into them is part of
        // the format's contract.
        let bytes = unsafe { Mmap::map(&file) }.map_err(IndexError::io("map", &path))?;
        Ok(Self { path, bytes })
    }

    /// Maps the file `name` of an index and verifies its length and checksum.
    pub(crate) fn verified(
        dir: &Path,
        name: &str,
        manifest: &Manifest,
    ) -> Result<Self, IndexError> {
        let record = manifest.files.get(name).ok_or_else(|| {
            IndexError::damaged(&dir.join(MANIFEST_FILE), format!("it does not list {name}"))
        })?;
        let mapped = Self::open(dir.join(name))?;
        let length = mapped.bytes.len() as u64;
        if length != record.length {
            return Err(IndexError::Length {
                file: mapped.path,
                expected: record.length,
                got: length,
            });
        }
        let got = blake3::hash(&mapped.bytes).to_hex().to_string();
        if got != record.blake3 {
            let expected = record.blake3.clone();
            return Err(IndexError::ChecksumMismatch {
                file: mapped.path,
                expected,
                got,
            });
        }
        Ok(mapped)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole file as numbers. Its length must be known to fit: see [`MappedFile::expect`].
    pub(crate) fn numbers<T: bytemuck::Pod>(&self) -> &[T] {
        // A mapping begins at a page, so only a length that does not fit can make this fail.
        bytemuck::try_cast_slice(&self.bytes).unwrap_or_default()
    }

    /// Fails unless the file holds exactly `count` rows of `width` bytes.
    pub(crate) fn expect(&self, count: u64, width: u64) -> Result<(), IndexError> {
        let expected = count.saturating_mul(width);
        let got = self.bytes.len() as u64;
        if got == expected {
            return Ok(());
        }
        Err(self.damaged(format!(
            "{got} bytes where {count} rows of {width} bytes were expected"
        )))
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> IndexError {
        IndexError::damaged(&self.path, reason)
    }
}
