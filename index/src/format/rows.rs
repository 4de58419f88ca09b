//! Rows of different lengths: a file with their bytes, and one that says where each begins.

use std::path::Path;

use crate::error::IndexError;
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::tracked::{TrackedFile, WrittenFile};

/// The names of the two files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowFiles {
    /// The bytes of one row after another.
    pub(crate) bytes: &'static str,
    /// Where each row begins, and where the last one ends: u64, one more than there are rows.
    pub(crate) offsets: &'static str,
}

/// Streams rows to the disk.
pub(crate) struct RowWriter {
    names: RowFiles,
    bytes: TrackedFile,
    offsets: TrackedFile,
}

impl RowWriter {
    pub(crate) fn create(dir: &Path, names: RowFiles) -> Result<Self, IndexError> {
        let mut offsets = TrackedFile::create(dir.join(names.offsets))?;
        offsets.write(&0u64.to_le_bytes())?;
        Ok(Self {
            names,
            bytes: TrackedFile::create(dir.join(names.bytes))?,
            offsets,
        })
    }

    /// Continues after the first `rows` of an interrupted writer, which take `length` bytes.
    pub(crate) fn resume(
        dir: &Path,
        names: RowFiles,
        rows: u32,
        length: u64,
    ) -> Result<Self, IndexError> {
        let offsets = (u64::from(rows) + 1) * size_of::<u64>() as u64;
        Ok(Self {
            names,
            bytes: TrackedFile::resume(dir.join(names.bytes), length)?,
            offsets: TrackedFile::resume(dir.join(names.offsets), offsets)?,
        })
    }

    /// Bytes of the rows so far.
    pub(crate) fn length(&self) -> u64 {
        self.bytes.length()
    }

    /// The file with the bytes.
    pub(crate) fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// Writes the next row.
    pub(crate) fn push(&mut self, row: &[u8]) -> Result<(), IndexError> {
        self.bytes.write(row)?;
        self.offsets.write(&self.bytes.length().to_le_bytes())
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.bytes.sync()?;
        self.offsets.sync()
    }

    pub(crate) fn finish(self) -> Result<[(&'static str, WrittenFile); 2], IndexError> {
        Ok([
            (self.names.bytes, self.bytes.finish()?),
            (self.names.offsets, self.offsets.finish()?),
        ])
    }
}

/// Rows that were written.
pub(crate) struct RowStore {
    bytes: CheckedFile,
    offsets: CheckedFile,
}

impl RowStore {
    pub(crate) fn open(
        files: &FileSet<'_>,
        names: RowFiles,
        rows: u32,
    ) -> Result<Self, IndexError> {
        let store = Self {
            bytes: files.map(names.bytes)?,
            offsets: files.map_verified(names.offsets)?,
        };
        let entries = u64::from(rows) + 1;
        store.offsets.expect(entries, size_of::<u64>() as u64)?;
        let (offsets, end) = (store.offsets(), store.length());
        if offsets.first() != Some(&0) || offsets.last() != Some(&end) || !offsets.is_sorted() {
            let reason = format!("the offsets do not cover {}", names.bytes);
            return Err(store.offsets.damaged(reason));
        }
        Ok(store)
    }

    /// Bytes of all rows.
    pub(crate) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Where each row begins, and where the last one ends.
    pub(crate) fn offsets(&self) -> &[u64] {
        self.offsets.numbers()
    }

    /// A row's bytes.
    pub(crate) fn get(&self, row: u32) -> Result<&[u8], IndexError> {
        let offsets = self.offsets();
        let (Some(&from), Some(&to)) = (offsets.get(row as usize), offsets.get(row as usize + 1))
        else {
            let rows = offsets.len() - 1;
            return Err(self
                .offsets
                .damaged(format!("row {row} is asked of {rows}")));
        };
        self.bytes.bytes(from as usize..to as usize)
    }

    /// Says what is wrong with the bytes of a row.
    pub(crate) fn damaged(&self, reason: String) -> IndexError {
        self.bytes.damaged(reason)
    }

    /// Verifies all bytes.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.bytes.verify()
    }
}
