//! Keys and values that the model computed when it embedded a segment's passages, for those who splice passages
//! without forwarding them again. To an index they are bytes: a row for each passage, empty if nothing is kept.

use std::path::Path;

use crate::error::IndexError;
use crate::format::checked::FileSet;
use crate::format::rows::{RowFiles, RowStore, RowWriter};

const FILES: RowFiles = RowFiles {
    bytes: "passages.kv",
    offsets: "passages.kv.offsets",
};

/// Begins the rows of a new segment.
pub(crate) fn create(dir: &Path) -> Result<RowWriter, IndexError> {
    RowWriter::create(dir, FILES)
}

/// See [`RowWriter::resume`].
pub(crate) fn resume(dir: &Path, passages: u32, length: u64) -> Result<RowWriter, IndexError> {
    RowWriter::resume(dir, FILES, passages, length)
}

/// The keys and values that were kept with a segment.
pub(crate) struct PassageKvStore(RowStore);

impl PassageKvStore {
    /// `None` if the segment was written without any.
    pub(crate) fn open(files: &FileSet<'_>, passages: u32) -> Result<Option<Self>, IndexError> {
        if !files.has(FILES.bytes) {
            return Ok(None);
        }
        RowStore::open(files, FILES, passages).map(|rows| Some(Self(rows)))
    }

    /// The bytes of a passage; `None` if nothing of it was kept.
    pub(crate) fn get(&self, row: u32) -> Result<Option<&[u8]>, IndexError> {
        let bytes = self.0.get(row)?;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// Bytes of all passages.
    pub(crate) fn length(&self) -> u64 {
        self.0.length()
    }

    /// Passages of which something is kept.
    pub(crate) fn passages(&self) -> u32 {
        let rows = self.0.offsets().windows(2);
        rows.filter(|row| row[0] < row[1]).count() as u32
    }

    /// Reads everything and says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.0.verify()
    }
}
