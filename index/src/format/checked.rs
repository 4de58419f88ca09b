//! Reads files that never change once written, and returns only bytes whose checksums were
//! verified.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use rayon::prelude::*;

use crate::error::IndexError;
use crate::format::blocks::{self, BLOCK, BlockHash};
use crate::format::file_record::FileRecord;
use crate::format::tracked::BLOCKS;

// Numbers are little-endian in the files and are read in place, from the mapping.
#[cfg(target_endian = "big")]
compile_error!("an index is read in place, which needs a little-endian machine");

/// The files of one directory, as its records describe them.
pub(crate) struct FileSet<'r> {
    dir: PathBuf,
    records: &'r BTreeMap<String, FileRecord>,
    blocks: Vec<BlockHash>,
}

impl<'r> FileSet<'r> {
    /// Reads the block hashes of the files in `dir`. The hashes are verified when the file that
    /// they belong to is mapped.
    pub(crate) fn open(
        dir: &Path,
        records: &'r BTreeMap<String, FileRecord>,
    ) -> Result<Self, IndexError> {
        let path = dir.join(BLOCKS);
        let bytes = fs::read(&path).map_err(IndexError::io("read", &path))?;
        let expected: u64 = records.values().map(|r| kept_blocks(r.length) * 32).sum();
        if bytes.len() as u64 != expected {
            return Err(IndexError::Length {
                file: path,
                expected,
                got: bytes.len() as u64,
            });
        }
        let (blocks, _) = bytes.as_chunks::<32>();
        Ok(Self {
            dir: dir.into(),
            records,
            blocks: blocks.to_vec(),
        })
    }

    /// Whether there is a file `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.records.contains_key(name)
    }

    /// Maps the file `name`. Its length is verified now, each block when it is first read.
    pub(crate) fn map(&self, name: &str) -> Result<CheckedFile, IndexError> {
        let record = self.record(name)?;
        let path = self.dir.join(name);
        let file = File::open(&path).map_err(IndexError::io("open", &path))?;
        let got = file
            .metadata()
            .map_err(IndexError::io("read", &path))?
            .len();
        if got != record.length {
            return Err(IndexError::Length {
                file: path,
                expected: record.length,
                got,
            });
        }
        let blocks = self.blocks_of(name)?.to_vec();
        if !blocks.is_empty() {
            let root = blocks::root(&blocks, record.length).to_hex().to_string();
            if root != record.blake3 {
                return Err(IndexError::ChecksumMismatch {
                    file: self.dir.join(BLOCKS),
                    expected: record.blake3.clone(),
                    got: root,
                });
            }
        }
        // SAFETY: files of a segment are never written again once they bear their name: changes get
        // new files. That nobody else writes into them is part of the format's contract.
        let bytes = unsafe { Mmap::map(&file) }.map_err(IndexError::io("map", &path))?;
        let words = (blocks::count(record.length) as usize).div_ceil(64);
        Ok(CheckedFile {
            path,
            bytes,
            blake3: record.blake3.clone(),
            blocks,
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Maps the file `name` and verifies all of it.
    pub(crate) fn map_verified(&self, name: &str) -> Result<CheckedFile, IndexError> {
        let file = self.map(name)?;
        file.verify()?;
        Ok(file)
    }

    fn record(&self, name: &str) -> Result<&'r FileRecord, IndexError> {
        self.records.get(name).ok_or_else(|| {
            IndexError::damaged(&self.dir.join(name), "the manifest does not list it")
        })
    }

    fn blocks_of(&self, name: &str) -> Result<&[BlockHash], IndexError> {
        let before: u64 = self
            .records
            .iter()
            .take_while(|(other, _)| other.as_str() < name)
            .map(|(_, r)| kept_blocks(r.length))
            .sum();
        let own = kept_blocks(self.record(name)?.length);
        // `open` has checked that there are enough hashes for all files.
        Ok(&self.blocks[before as usize..(before + own) as usize])
    }
}

/// How many block hashes are stored for a file. A file of one block needs none: that hash is the
/// file's own checksum.
fn kept_blocks(length: u64) -> u64 {
    match blocks::count(length) {
        0 | 1 => 0,
        more => more,
    }
}

/// A mapped file of which only verified bytes are given out.
pub(crate) struct CheckedFile {
    path: PathBuf,
    bytes: Mmap,
    blake3: String,
    blocks: Vec<BlockHash>,
    // One bit a block: whether it was verified.
    checked: Box<[AtomicU64]>,
}

impl CheckedFile {
    /// Maps a file that this process has just written, and does not verify it.
    pub(crate) fn written(path: PathBuf) -> Result<Self, IndexError> {
        let file = File::open(&path).map_err(IndexError::io("open", &path))?;
        // SAFETY: as in `FileSet::map`.
        let bytes = unsafe { Mmap::map(&file) }.map_err(IndexError::io("map", &path))?;
        let words = (blocks::count(bytes.len() as u64) as usize).div_ceil(64);
        Ok(Self {
            path,
            bytes,
            blake3: String::new(),
            blocks: Vec::new(),
            checked: (0..words).map(|_| AtomicU64::new(u64::MAX)).collect(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a range, verified. A range beyond the end is an error, too.
    #[inline]
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<&[u8], IndexError> {
        let Some(bytes) = self.bytes.get(range.clone()) else {
            return Err(self.damaged(format!(
                "bytes {} to {} are asked of {}",
                range.start,
                range.end,
                self.bytes.len()
            )));
        };
        if !bytes.is_empty() {
            for block in range.start / BLOCK..=(range.end - 1) / BLOCK {
                if self.checked[block / 64].load(Ordering::Relaxed) & (1 << (block % 64)) == 0 {
                    self.verify_block(block)?;
                }
            }
        }
        Ok(bytes)
    }

    /// Verifies all blocks that were not verified yet, on all cores.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        let blocks = blocks::count(self.bytes.len() as u64) as usize;
        if blocks == 0 {
            return self.verify_block(0);
        }
        (0..blocks)
            .into_par_iter()
            .with_min_len(16)
            .try_for_each(|block| {
                match self.checked[block / 64].load(Ordering::Relaxed) & (1 << (block % 64)) {
                    0 => self.verify_block(block),
                    _ => Ok(()),
                }
            })
    }

    #[cold]
    fn verify_block(&self, block: usize) -> Result<(), IndexError> {
        let from = block * BLOCK;
        let bytes = &self.bytes[from..(from + BLOCK).min(self.bytes.len())];
        let (expected, got) = match self.blocks.get(block) {
            None => (
                self.blake3.clone(),
                blake3::hash(bytes).to_hex().to_string(),
            ),
            Some(expected) => (hex(expected), hex(&blocks::hash(block as u64, bytes))),
        };
        if expected != got {
            return Err(IndexError::ChecksumMismatch {
                file: self.path.clone(),
                expected,
                got,
            });
        }
        if let Some(word) = self.checked.get(block / 64) {
            word.fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
        Ok(())
    }

    /// The whole file as numbers, for files that were verified when they were mapped. The length
    /// must be known to fit: see [`CheckedFile::expect`].
    pub(crate) fn numbers<T: bytemuck::Pod>(&self) -> &[T] {
        // A mapping begins at a page boundary, so the cast can fail only if the length does not
        // fit.
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

/// The whole file, for files that were verified when they were mapped.
impl AsRef<[u8]> for CheckedFile {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn hex(hash: &BlockHash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}
