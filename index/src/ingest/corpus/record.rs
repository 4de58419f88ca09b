//! One record of a corpus: from its fields to a document, or what is wrong with it.

use std::fmt;
use std::io;

use serde_json::{Map, Value};

use super::document::Document;

/// A record that holds no document.
#[derive(Debug, thiserror::Error)]
#[error("{position}: {reason}")]
pub struct RecordError {
    /// Where it stands.
    pub position: Position,
    /// What is wrong with it.
    #[source]
    pub reason: RecordReason,
}

/// Where a record stands in its corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// A line of a file, from 1.
    Line(u64),
    /// A row of a table, from 1.
    Row(u64),
    /// A file of a folder: its path from there, with `/`.
    File(String),
    /// A record of a file of a folder.
    InFile {
        /// The file's path from the folder, with `/`.
        file: String,
        /// Where in the file.
        record: Box<Position>,
    },
}

impl Position {
    /// The number of the record in its file.
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Line(number) | Self::Row(number) => *number,
            Self::File(_) => 0,
            Self::InFile { record, .. } => record.number(),
        }
    }

    /// The position in a list of positions: `part-0.jsonl line 2`.
    pub(crate) fn short(&self) -> String {
        match self {
            Self::Line(_) | Self::Row(_) => self.to_string(),
            Self::File(path) => path.clone(),
            Self::InFile { file, record } => format!("{file} {record}"),
        }
    }

    /// Another position in the same file.
    pub(super) fn at(&self, number: u64) -> Self {
        match self {
            Self::Line(_) => Self::Line(number),
            Self::Row(_) => Self::Row(number),
            Self::File(name) => Self::File(name.clone()),
            Self::InFile { file, record } => Self::InFile {
                file: file.clone(),
                record: Box::new(record.at(number)),
            },
        }
    }

    /// Whether another position is in the same file.
    pub(super) fn same_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Line(_), Self::Line(_)) | (Self::Row(_), Self::Row(_)) => true,
            (Self::File(own), Self::File(other))
            | (Self::InFile { file: own, .. }, Self::InFile { file: other, .. }) => own == other,
            _ => false,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::File(path) => write!(f, "file {path:?}"),
            Self::InFile { file, record } => write!(f, "file {file:?}, {record}"),
        }
    }
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordReason {
    /// The corpus cannot be read any further.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// This file of a folder cannot be read; reading continues with the next.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// The record is longer than the limit of what is kept in memory.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The most bytes that a record may have.
        limit: u64,
    },
    /// This file of a folder holds no records that can be read; reading continues with the next.
    #[error("{0}")]
    Format(String),
    /// A text holds bytes that no text has.
    #[error("binary: it holds zero bytes")]
    Binary,
    /// A file, or its name, is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// It is not a JSON object.
    #[error("not a JSON object: {message} (column {column})")]
    Json {
        /// What the parser says.
        message: String,
        /// Where, from 1.
        column: usize,
    },
    /// A field that every document has is missing or null.
    #[error("has no {0:?}")]
    Missing(&'static str),
    /// A field is of another type.
    #[error("{field:?} is not {expected}")]
    Type {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A field is empty, so nothing could be found by it.
    #[error("{0:?} is empty")]
    Empty(&'static str),
    /// The id was there before.
    #[error("has the id {id:?} of {first}")]
    DuplicateId {
        /// The id.
        id: String,
        /// The earlier record, which keeps the id.
        first: Position,
    },
    /// The document cannot be embedded.
    #[error("cannot be embedded: {0}")]
    NotEmbeddable(String),
}

impl RecordReason {
    /// The reason without details, as it reads after a number of records.
    pub(crate) fn short(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::Open(_) => "that cannot be read",
            Self::TooLong { .. } => "too big",
            Self::Format(_) => "whose records cannot be read",
            Self::Binary => "binary",
            Self::NotUtf8(_) => "not UTF-8",
            Self::Json { .. } => "not a JSON object",
            Self::Missing(_) => "without an id or a text",
            Self::Type { .. } => "with a field of another type",
            Self::Empty(_) => "empty",
            Self::DuplicateId { .. } => "with an id that was there before",
            Self::NotEmbeddable(_) => "that cannot be embedded",
        }
    }
}

/// Reads a document from `{"id" or "_id", "title"?, "text", "url"?, "metadata"?}`. Other fields are
/// ignored.
pub(super) fn document(mut fields: Map<String, Value>) -> Result<Document, RecordReason> {
    let id = take(&mut fields, "id").or_else(|| take(&mut fields, "_id"));
    let id = self::id(id, "id")?;
    let text = string(&mut fields, "text")?.ok_or(RecordReason::Missing("text"))?;
    if text.trim().is_empty() {
        return Err(RecordReason::Empty("text"));
    }
    let metadata = match take(&mut fields, "metadata") {
        None => None,
        Some(Value::Object(metadata)) => Some(metadata),
        Some(_) => {
            return Err(RecordReason::Type {
                field: "metadata",
                expected: "an object",
            });
        }
    };
    let title = string(&mut fields, "title")?.unwrap_or_default();
    let url = string(&mut fields, "url")?;
    Ok(Document {
        id,
        title,
        text,
        url,
        metadata,
        sentences: None,
    })
}

/// An id, which may be written as an integer.
pub(super) fn id(value: Option<Value>, field: &'static str) -> Result<String, RecordReason> {
    match value {
        None => Err(RecordReason::Missing(field)),
        Some(Value::String(id)) if id.is_empty() => Err(RecordReason::Empty(field)),
        Some(Value::String(id)) => Ok(id),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some(_) => Err(RecordReason::Type {
            field,
            expected: "a string or an integer",
        }),
    }
}

/// A field's value; null counts as absent.
pub(super) fn take(fields: &mut Map<String, Value>, field: &str) -> Option<Value> {
    fields.remove(field).filter(|value| !value.is_null())
}

fn string(
    fields: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, RecordReason> {
    match take(fields, field) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(RecordReason::Type {
            field,
            expected: "a string",
        }),
    }
}
