//! Keys and values that the model computed when it embedded a segment's passages, for those who splice passages
//! without forwarding them again. To an index they are bytes.

use std::path::Path;

use crate::error::IndexError;
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::tracked::{TrackedFile, WrittenFile};

/// The bytes of one passage after another.
const BYTES: &str = "passages.kv";
/// Where each passage's bytes begin, and where the last ones end: u64, one more than there are passages. A
/// passage of which nothing is kept has none.
const OFFSETS: &str = "passages.kv.offsets";

/// Streams them to the disk.
pub(crate) struct PassageKvWriter {
    bytes: TrackedFile,
    offsets: TrackedFile,
}

impl PassageKvWriter {
    pub(crate) fn create(dir: &Path) -> Result<Self, IndexError> {
        let mut offsets = TrackedFile::create(dir.join(OFFSETS))?;
        offsets.write(&0u64.to_le_bytes())?;
        Ok(Self {
            bytes: TrackedFile::create(dir.join(BYTES))?,
            offsets,
        })
    }

    /// Continues after the first `passages` of an interrupted writer, which take `length` bytes.
    pub(crate) fn resume(dir: &Path, passages: u32, length: u64) -> Result<Self, IndexError> {
        let offsets = (u64::from(passages) + 1) * size_of::<u64>() as u64;
        Ok(Self {
            bytes: TrackedFile::resume(dir.join(BYTES), length)?,
            offsets: TrackedFile::resume(dir.join(OFFSETS), offsets)?,
        })
    }

    /// Bytes so far, without the offsets.
    pub(crate) fn length(&self) -> u64 {
        self.bytes.length()
    }

    /// Writes the bytes of the next passage.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        self.bytes.write(bytes)?;
        self.offsets.write(&self.bytes.length().to_le_bytes())
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.bytes.sync()?;
        self.offsets.sync()
    }

    pub(crate) fn finish(self) -> Result<[(&'static str, WrittenFile); 2], IndexError> {
        Ok([
            (BYTES, self.bytes.finish()?),
            (OFFSETS, self.offsets.finish()?),
        ])
    }
}

/// The keys and values that were kept with a segment.
pub(crate) struct PassageKvStore {
    bytes: CheckedFile,
    offsets: CheckedFile,
}

impl PassageKvStore {
    /// `None` if the segment was written without any.
    pub(crate) fn open(files: &FileSet<'_>, passages: u32) -> Result<Option<Self>, IndexError> {
        if !files.has(BYTES) {
            return Ok(None);
        }
        let store = Self {
            bytes: files.map(BYTES)?,
            offsets: files.map_verified(OFFSETS)?,
        };
        let entries = u64::from(passages) + 1;
        store.offsets.expect(entries, size_of::<u64>() as u64)?;
        let offsets = store.offsets.numbers::<u64>();
        let end = store.bytes.len() as u64;
        if offsets.first() != Some(&0) || offsets.last() != Some(&end) || !offsets.is_sorted() {
            return Err(store.offsets.damaged("the offsets do not cover the bytes"));
        }
        Ok(Some(store))
    }

    /// The bytes of a passage; `None` if nothing of it was kept.
    pub(crate) fn get(&self, row: u32) -> Result<Option<&[u8]>, IndexError> {
        match self.offsets.numbers::<u64>()[row as usize..] {
            [from, to, ..] if from < to => self.bytes.bytes(from as usize..to as usize).map(Some),
            _ => Ok(None),
        }
    }

    /// Bytes of all passages.
    pub(crate) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Passages of which something is kept.
    pub(crate) fn passages(&self) -> u32 {
        let offsets = self.offsets.numbers::<u64>();
        offsets.windows(2).filter(|pair| pair[0] < pair[1]).count() as u32
    }

    /// Reads everything and says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.bytes.verify()
    }
}
