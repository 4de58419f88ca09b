//! A Parquet table, each row a document.

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::{ReaderIter, TreeBuilder};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};
use serde_json::{Map, Value};

use super::document::Document;
use super::record::{self, Position, RecordReason};
use super::source::{CorpusError, Source};

/// Rows that are decoded at once. The number is small because a text can be long.
const BATCH_ROWS: usize = 64;

/// Columns that are fields of a document.
const FIELDS: [&str; 6] = ["id", "_id", "title", "text", "url", "metadata"];

/// Reads page by page of one row group after another.
pub(super) struct Table {
    file: SerializedFileReader<File>,
    // The columns that are read.
    columns: SchemaDescPtr,
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
        let schema = metadata.file_metadata().schema();
        let columns = columns(schema).map_err(error)?;
        if let Some(codec) = unread_codec(metadata) {
            return Err(error(format!(
                "is compressed with {codec}, which is not read; write it with zstd or snappy"
            )));
        }
        Ok(Self {
            columns,
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
                    .as_iter(self.columns.clone(), &*row_group)
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
    fn next(&mut self) -> Option<(Position, Result<Document, RecordReason>)> {
        let row = self.next_row()?;
        self.row += 1;
        let document = row
            .map_err(|error| RecordReason::Read(std::io::Error::other(error)))
            .and_then(document);
        Some((Position::Row(self.row), document))
    }

    /// Estimated from the number of rows, because pages of several columns are read at once.
    fn bytes_read(&self) -> u64 {
        let share = self.row as f64 / self.total_rows.max(1) as f64;
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

/// The columns to read: the fields of a document, and other columns of plain values. All other
/// columns are not decoded.
fn columns(schema: &Type) -> Result<SchemaDescPtr, String> {
    let names: Vec<&str> = schema
        .get_fields()
        .iter()
        .map(|field| field.name())
        .collect();
    for needed in [&["text"][..], &["id", "_id"]] {
        if !names.iter().any(|name| needed.contains(name)) {
            return Err(format!("has no column {:?}, only {names:?}", needed[0]));
        }
    }
    let is_field = |column: &TypePtr| FIELDS.contains(&column.name());
    let unreadable = |column: &&TypePtr| is_field(column) && !is_readable(column);
    if let Some(column) = schema.get_fields().iter().find(unreadable) {
        return Err(format!(
            "column {:?} is of a type that is not read",
            column.name()
        ));
    }
    let wanted =
        |column: &&TypePtr| is_field(column) || (is_plain(column) && is_text_or_number(column));
    let columns = schema.get_fields().iter().filter(wanted).cloned().collect();
    let schema = Type::group_type_builder(schema.name())
        .with_fields(columns)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(SchemaDescriptor::new(Arc::new(schema))))
}

fn is_plain(column: &Type) -> bool {
    column.is_primitive() && column.get_basic_info().repetition() != Repetition::REPEATED
}

/// Whether values of a column, or all within it, have a counterpart in JSON.
fn is_readable(column: &Type) -> bool {
    match column {
        Type::GroupType { fields, .. } => fields.iter().all(|field| is_readable(field)),
        Type::PrimitiveType { .. } => is_text_or_number(column) || is_bytes(column),
    }
}

fn is_bytes(column: &Type) -> bool {
    column.get_physical_type() == PhysicalType::BYTE_ARRAY
        && column.get_basic_info().converted_type() == ConvertedType::NONE
}

fn is_text_or_number(column: &Type) -> bool {
    use ConvertedType as C;
    let info = column.get_basic_info();
    match column.get_physical_type() {
        PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE => true,
        PhysicalType::INT32 | PhysicalType::INT64 => match info.converted_type() {
            C::INT_8 | C::INT_16 | C::INT_32 | C::INT_64 => true,
            C::UINT_8 | C::UINT_16 | C::UINT_32 | C::UINT_64 => true,
            // Nanoseconds have a logical type only.
            C::NONE => matches!(
                info.logical_type_ref(),
                None | Some(LogicalType::Integer { .. })
            ),
            _ => false,
        },
        PhysicalType::BYTE_ARRAY => {
            matches!(info.converted_type(), C::UTF8 | C::ENUM | C::JSON)
        }
        PhysicalType::INT96 | PhysicalType::FIXED_LEN_BYTE_ARRAY => false,
    }
}

fn document(row: Row) -> Result<Document, RecordReason> {
    let mut fields = Map::new();
    let mut others = Map::new();
    for (name, value) in row.into_columns() {
        let value = json(value)?;
        if FIELDS.contains(&name.as_str()) {
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
    record::document(fields)
}

/// A value as JSON. Fields of a struct that are null are left out: a table has every field in every
/// row.
fn json(value: Field) -> Result<Value, RecordReason> {
    Ok(match value {
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::Bytes(value) => std::str::from_utf8(value.data())
            .map_err(|_| RecordReason::NotUtf8("a value"))?
            .into(),
        Field::Group(row) => {
            let mut object = Map::new();
            for (name, value) in row.into_columns() {
                let value = json(value)?;
                if !value.is_null() {
                    object.insert(name, value);
                }
            }
            object.into()
        }
        Field::ListInternal(list) => list
            .elements()
            .iter()
            .map(|element| json(element.clone()))
            .collect::<Result<Vec<Value>, _>>()?
            .into(),
        Field::MapInternal(map) => {
            let mut object = Map::new();
            for (key, value) in map.entries() {
                let key = match json(key.clone())? {
                    Value::String(key) => key,
                    key => key.to_string(),
                };
                object.insert(key, json(value.clone())?);
            }
            object.into()
        }
        // No column of another type is read.
        _ => Value::Null,
    })
}
