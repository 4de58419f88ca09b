//! A matrix of a checkpoint, read row by row.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use half::{bf16, f16};

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
        let element = stored.element;
        Ok(Self {
            stored,
            file,
            row_bytes: columns / element.block_size() * element.type_size(),
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
        let stored = self.stored;
        let bytes = self.next_bytes()?;
        let pairs = || bytes.as_chunks::<2>().0;
        match stored.element {
            GgmlDType::F32 => {
                for (number, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
            GgmlDType::F16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            GgmlDType::BF16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            blocks => {
                let numbers = dequantise(blocks, bytes, row.len());
                row.copy_from_slice(&numbers.map_err(|source| LoadError::Weights {
                    dir: stored.path.to_path_buf(),
                    source,
                })?);
            }
        }
        Ok(())
    }
}

fn dequantise(
    element: GgmlDType,
    blocks: &[u8],
    columns: usize,
) -> Result<Vec<f32>, candle_core::Error> {
    qtensor_from_ggml(element, blocks, vec![columns], &Device::Cpu)?
        .dequantize(&Device::Cpu)?
        .to_vec1()
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
