//! Reads metadata by key and type.

use super::header::Header;
use crate::error::LoadError;
use crate::model::stored::damaged;

/// A value of the metadata. Numbers of all widths have one variant.
#[derive(Debug)]
pub(super) enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a truth value",
            Value::Text(_) => "a string",
            Value::List(_) => "an array",
        }
    }
}

/// The largest count or size, so that the product of two cannot overflow.
const MOST: i64 = i32::MAX as i64;

/// Each method returns `None` for a missing key, and an error for a value of another type.
impl Header {
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.get(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.get(key, "a truth value", |value| match value {
            Value::Bool(bool) => Some(*bool),
            _ => None,
        })
    }

    /// A size, a number of things or an id.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.get(key, "a count below 2^31", |value| match value {
            Value::Integer(count @ 0..=MOST) => Some(*count as usize),
            _ => None,
        })
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.get(key, "a finite number", |value| match value {
            Value::Float(number) if number.is_finite() => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, LoadError> {
        self.list(key, "an array of strings", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, LoadError> {
        self.list(key, "an array of integers", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, LoadError> {
        self.list(key, "an array of floats", |value| match value {
            Value::Float(number) => Some(*number),
            _ => None,
        })
    }

    /// The value of a key that must exist.
    pub(super) fn required<T>(&self, key: &str, found: Option<T>) -> Result<T, LoadError> {
        found.ok_or_else(|| damaged(&self.path, format!("its metadata lack {key}")))
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(entry) = self.metadata.get(key) else {
            return Ok(None);
        };
        let value = &entry.value;
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => {
                let found = match value {
                    Value::Integer(number) => number.to_string(),
                    other => other.kind().to_owned(),
                };
                let reason = format!("{key} is {found}, where {wanted} is wanted");
                Err(damaged(&self.path, reason))
            }
        }
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, LoadError> {
        self.get(key, wanted, |value| match value {
            Value::List(elements) => elements.iter().map(&read).collect(),
            _ => None,
        })
    }
}
