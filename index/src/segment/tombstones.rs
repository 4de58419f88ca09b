//! Files that say which passages of a segment are deleted: one bit a passage.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::filter::bitset::Bitset;
use crate::format::manifest::{SegmentRecord, TombstoneRecord};
use crate::format::tracked::TrackedFile;

/// Path of the tombstones with a number, in the directory of their index.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("tombstones-{number:06}"))
}

pub(crate) fn write(
    dir: &Path,
    number: u64,
    deleted: &Bitset,
) -> Result<TombstoneRecord, IndexError> {
    let mut file = TrackedFile::create(path(dir, number))?;
    file.write(&deleted.to_bytes())?;
    Ok(TombstoneRecord {
        number,
        passages: deleted.count() as u32,
        file: file.finish()?.record,
    })
}

/// The deleted passages of a segment, from the file that its record names.
pub(crate) fn read(dir: &Path, segment: &SegmentRecord) -> Result<Bitset, IndexError> {
    let passages = segment.passages as usize;
    let Some(record) = &segment.tombstones else {
        return Ok(Bitset::new(passages));
    };
    let path = path(dir, record.number);
    let bytes = fs::read(&path).map_err(IndexError::io("read", &path))?;
    if bytes.len() as u64 != record.file.length {
        return Err(IndexError::Length {
            file: path,
            expected: record.file.length,
            got: bytes.len() as u64,
        });
    }
    let got = blake3::hash(&bytes).to_hex().to_string();
    if got != record.file.blake3 {
        return Err(IndexError::ChecksumMismatch {
            file: path,
            expected: record.file.blake3.clone(),
            got,
        });
    }
    let deleted = Bitset::from_bytes(&bytes, passages)
        .map_err(|reason| IndexError::damaged(&path, reason))?;
    if deleted.count() as u32 == record.passages {
        Ok(deleted)
    } else {
        Err(IndexError::damaged(&path, "the manifest counts otherwise"))
    }
}
