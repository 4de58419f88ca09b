//! A matrix of a checkpoint, read row by row.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::adapter::{Change, OpenChange};
use super::stored::StoredTensor;
use crate::error::LoadError;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Reads a matrix row by row.
pub(crate) struct Rows<'a> {
    stored: &'a StoredTensor,
    file: File,
    row_bytes: usize,
    /// The bytes of rows that were read ahead, how many rows these are, and how many of them were
    /// returned.
    ahead: Vec<u8>,
    held: usize,
    given: usize,
    /// Stored rows that were not read yet.
    rows_left: usize,
    /// The number of the next row, and of all rows. Rows that an adapter adds are not stored in the
    /// base.
    next: usize,
    rows: usize,
    change: Option<OpenChange<'a>>,
}

impl<'a> Rows<'a> {
    /// Opens a stored matrix of `rows` rows and `columns` columns, to which `change` is applied as
    /// it is read.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn open(
        stored: &'a StoredTensor,
        (rows, columns): (usize, usize),
        change: Option<&'a Change>,
    ) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read {
            path: stored.path.to_path_buf(),
            source,
        };
        let mut file = File::open(&stored.path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(stored.start))
            .map_err(unreadable)?;
        Ok(Self {
            stored,
            file,
            row_bytes: stored.element.bytes(columns),
            ahead: Vec::new(),
            held: 0,
            given: 0,
            rows_left: stored.shape.iter().product::<usize>() / columns.max(1),
            next: 0,
            rows,
            change: change.map(Change::open).transpose()?,
        })
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.next == self.rows
    }

    fn next_is_stored(&self) -> bool {
        self.rows_left > 0 || self.given < self.held
    }

    /// The next row as it is stored, as numbers or ggml's blocks, before any change by an adapter.
    pub(crate) fn next_bytes(&mut self) -> Result<&[u8], LoadError> {
        self.next += 1;
        if self.given == self.held {
            self.read_ahead()?;
        }
        let at = self.stored.place(self.given) * self.row_bytes;
        self.given += 1;
        Ok(&self.ahead[at..at + self.row_bytes])
    }

    /// Reads whole groups of rows, so that each row is at the place that [`StoredTensor::place`]
    /// gives.
    fn read_ahead(&mut self) -> Result<(), LoadError> {
        let group = self.stored.paired.unwrap_or(1);
        let rows = (READ_BYTES / self.row_bytes.max(1)).max(1);
        self.held = rows.next_multiple_of(group).min(self.rows_left);
        self.given = 0;
        self.ahead.resize(self.held * self.row_bytes, 0);
        self.rows_left -= self.held;
        self.file
            .read_exact(&mut self.ahead)
            .map_err(|source| LoadError::Read {
                path: self.stored.path.to_path_buf(),
                source,
            })
    }

    /// Writes the next row to `row`, as numbers, changed where an adapter changes it.
    pub(crate) fn next_row(&mut self, row: &mut [f32]) -> Result<(), LoadError> {
        let (at, is_stored) = (self.next, self.next_is_stored());
        if is_stored {
            self.next_stored_row(row)?;
        } else {
            self.next += 1;
        }
        match &mut self.change {
            Some(change) => change.apply(at, is_stored, row),
            None => Ok(()),
        }
    }

    fn next_stored_row(&mut self, row: &mut [f32]) -> Result<(), LoadError> {
        let element = self.stored.element;
        element.dequantise(self.next_bytes()?, row);
        Ok(())
    }
}

impl StoredTensor {
    /// All numbers, row by row.
    pub(super) fn numbers(&self) -> Result<Vec<f32>, LoadError> {
        let total: usize = self.shape.iter().product();
        let columns = self.columns();
        let mut numbers = vec![0.0; total];
        let mut rows = Rows::open(self, (total / columns.max(1), columns), None)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            rows.next_row(row)?;
        }
        Ok(numbers)
    }
}
