//! A Parquet table, each row a document.

mod columns;
mod values;

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Row;
use ::parquet::record::reader::{ReaderIter, TreeBuilder};
use ::parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Value};

use self::columns::Columns;
use self::values::Reading;
use super::document::Document;
use super::left_out::LeftOut;
use super::record::{self, Position, RecordReason};
use super::source::{CorpusError, Source};

/// Rows that are decoded at once. The number is small because a text can be long.
const BATCH_ROWS: usize = 64;

/// Reads page by page of one row group after another.
pub(super) struct Table {
    file: SerializedFileReader<File>,
    columns: Columns,
    // The schema of the columns that are read.
    schema: SchemaDescPtr,
    row_groups: usize,
    next_row_group: usize,
    rows: Option<ReaderIter>,
    row: u64,
    total_rows: u64,
    total_bytes: u64,
}

impl Table {
    pub(super) fn open(path: &Path, file: File) -> Result<Self, CorpusError> {
        let error = |reason: String| CorpusError::Parquet {
            path: path.to_path_buf(),
            reason,
        };
        let total_bytes = file.metadata().map_err(CorpusError::io(path))?.len();
        let file = guarded(|| SerializedFileReader::new(file)).map_err(error)?;
        let metadata = file.metadata();
        let columns = Columns::choose(metadata.file_metadata()).map_err(error)?;
        if let Some(codec) = unread_codec(metadata) {
            return Err(error(format!(
                "is compressed with {codec}, which is not read; write it with zstd or snappy"
            )));
        }
        let read = Type::group_type_builder(metadata.file_metadata().schema().name())
            .with_fields(columns.types())
            .build()
            .map_err(|reason| error(reason.to_string()))?;
        Ok(Self {
            columns,
            schema: Arc::new(SchemaDescriptor::new(Arc::new(read))),
            row_groups: metadata.num_row_groups(),
            next_row_group: 0,
            rows: None,
            row: 0,
            total_rows: u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default(),
            total_bytes,
            file,
        })
    }

    fn next_row(&mut self) -> Option<Result<Row, String>> {
        loop {
            if let Some(rows) = &mut self.rows {
                let row = guarded(|| rows.next().transpose()).transpose();
                if row.is_some() {
                    return row;
                }
                self.rows = None;
            }
            if self.next_row_group == self.row_groups {
                return None;
            }
            let rows = guarded(|| {
                let row_group = self.file.get_row_group(self.next_row_group)?;
                TreeBuilder::new()
                    .with_batch_size(BATCH_ROWS)
                    .as_iter(self.schema.clone(), &*row_group)
            });
            match rows {
                Ok(rows) => self.rows = Some(rows),
                Err(error) => return Some(Err(error)),
            }
            self.next_row_group += 1;
        }
    }
}

impl Source for Table {
    fn next(
        &mut self,
        left_out: &mut LeftOut,
    ) -> Option<(Position, Result<Document, RecordReason>)> {
        self.columns.report(left_out);
        let row = self.next_row()?;
        self.row += 1;
        let document = row
            .map_err(|error| RecordReason::Read(std::io::Error::other(error)))
            .and_then(|row| document(row, &self.columns, left_out));
        Some((Position::Row(self.row), document))
    }

    /// Estimated from the number of rows, because pages of several columns are read at once.
    fn bytes_read(&self) -> u64 {
        if self.total_rows == 0 {
            return self.total_bytes;
        }
        let share = self.row as f64 / self.total_rows as f64;
        (self.total_bytes as f64 * share.min(1.0)) as u64
    }
}

/// The reader checks much of a damaged file and panics on the rest.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("the table is damaged, or of a kind that is not known".into()),
    }
}

/// A compression that the reader is built without.
fn unread_codec(metadata: &ParquetMetaData) -> Option<&'static str> {
    let mut columns = metadata.row_groups().iter().flat_map(|rows| rows.columns());
    columns.find_map(|column| match column.compression() {
        Compression::BROTLI(_) => Some("brotli"),
        Compression::LZO => Some("LZO"),
        _ => None,
    })
}

fn document(row: Row, columns: &Columns, left_out: &mut LeftOut) -> Result<Document, RecordReason> {
    let mut fields = Map::new();
    let mut others = Map::new();
    for ((name, value), column) in row.into_columns().into_iter().zip(columns.read()) {
        let mut reading = Reading::new(column, left_out);
        let value = reading.json(value, Some(&column.of_type))?;
        if column.is_field {
            fields.insert(name, value);
        } else if !value.is_null() {
            others.insert(name, value);
        }
    }
    let metadata = match fields.remove("metadata") {
        // Columns may be objects or their JSON.
        Some(Value::String(json)) => serde_json::from_str(&json).unwrap_or(Value::String(json)),
        metadata => metadata.unwrap_or_default(),
    };
    let metadata = match metadata {
        // A field of the metadata column itself has priority over a column of the same name.
        Value::Object(metadata) => {
            others.extend(metadata);
            Value::Object(others)
        }
        Value::Null if !others.is_empty() => Value::Object(others),
        other => other,
    };
    fields.insert("metadata".into(), metadata);
    for id in ["id", "_id"] {
        if let Some(id) = fields.get_mut(id) {
            write_as_integer(id);
        }
    }
    record::document(fields)
}

/// Pandas stores integers as floats where one of them is missing: the id 7 is 7.0 then.
fn write_as_integer(id: &mut Value) {
    const EXACT: f64 = (1u64 << 53) as f64;
    if let Value::Number(number) = id
        && let Some(float) = number.as_f64().filter(|_| number.is_f64())
        && float.fract() == 0.0
        && float.abs() < EXACT
    {
        *id = (float as i64).into();
    }
}
