//! Reading a corpus: one JSON object a line, `{"id","title","text","url"?,"metadata"?}`, or BEIR's
//! `_id`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::passages::Passage;

/// A line that holds no passage.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    #[source]
    pub reason: LineReason,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineReason {
    /// The corpus cannot be read any further.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is not a JSON object.
    #[error("not a JSON object: {message} (column {column})")]
    Json {
        /// What the parser says.
        message: String,
        /// Where, from 1.
        column: usize,
    },
    /// A field that every passage has is missing or null.
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
    /// A field holds nothing to be found by.
    #[error("{0:?} is empty")]
    Empty(&'static str),
    /// The id was there before.
    #[error("has the id {id:?} of line {first_line}")]
    DuplicateId {
        /// The id.
        id: String,
        /// The line that keeps it.
        first_line: u64,
    },
    /// The passage cannot be embedded.
    #[error("cannot be embedded: {0}")]
    NotEmbeddable(String),
}

/// Reads passages from a corpus, line by line. A bad line is an item like any other, and the next
/// is read after it; only after [`LineReason::Read`] there is no next. Empty lines are skipped.
pub struct CorpusReader<R> {
    input: R,
    line: u64,
    bytes_read: u64,
    failed: bool,
    // Line of each id by 128 bits of its blake3.
    lines: HashMap<[u8; 16], u64>,
}

impl CorpusReader<BufReader<File>> {
    /// Opens a corpus file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(BufReader::with_capacity(
            1 << 20,
            File::open(path)?,
        )))
    }
}

impl<R: BufRead> CorpusReader<R> {
    /// Reads a corpus from anything.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            bytes_read: 0,
            failed: false,
            lines: HashMap::new(),
        }
    }

    /// Number of the line that the last item came from, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn passage(&mut self, line: &[u8]) -> Result<Passage, LineReason> {
        let passage = parse(line)?;
        match self.lines.entry(crate::passages::digest(&passage.id)) {
            Entry::Vacant(free) => {
                free.insert(self.line);
                Ok(passage)
            }
            Entry::Occupied(first) => Err(LineReason::DuplicateId {
                id: passage.id,
                first_line: *first.get(),
            }),
        }
    }
}

impl<R: BufRead> Iterator for CorpusReader<R> {
    type Item = Result<Passage, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        while !self.failed {
            buffer.clear();
            self.line += 1;
            match self.input.read_until(b'\n', &mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.bytes_read += read as u64,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(LineError {
                        line: self.line,
                        reason: error.into(),
                    }));
                }
            }
            let mut content = buffer.as_slice();
            if self.line == 1 {
                content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
            }
            let content = content.trim_ascii();
            if !content.is_empty() {
                let line = self.line;
                return Some(
                    self.passage(content)
                        .map_err(|reason| LineError { line, reason }),
                );
            }
        }
        None
    }
}

fn parse(line: &[u8]) -> Result<Passage, LineReason> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        let column = error.column();
        let message = error.to_string();
        // The parser counts lines within what it was given, which is always one.
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        LineReason::Json { message, column }
    })?;
    let id = match take(&mut fields, "id").or_else(|| take(&mut fields, "_id")) {
        None => return Err(LineReason::Missing("id")),
        Some(Value::String(id)) if id.is_empty() => return Err(LineReason::Empty("id")),
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => id.to_string(),
        Some(_) => {
            return Err(LineReason::Type {
                field: "id",
                expected: "a string or an integer",
            });
        }
    };
    let text = string(&mut fields, "text")?.ok_or(LineReason::Missing("text"))?;
    if text.trim().is_empty() {
        return Err(LineReason::Empty("text"));
    }
    let metadata = match take(&mut fields, "metadata") {
        None => None,
        Some(Value::Object(metadata)) => Some(metadata),
        Some(_) => {
            return Err(LineReason::Type {
                field: "metadata",
                expected: "an object",
            });
        }
    };
    let title = string(&mut fields, "title")?.unwrap_or_default();
    Ok(Passage {
        id,
        title,
        text,
        url: string(&mut fields, "url")?,
        metadata,
    })
}

/// A field's value; null counts as absent.
fn take(fields: &mut Map<String, Value>, field: &str) -> Option<Value> {
    fields.remove(field).filter(|value| !value.is_null())
}

fn string(
    fields: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, LineReason> {
    match take(fields, field) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value)),
        Some(_) => Err(LineReason::Type {
            field,
            expected: "a string",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(corpus: &[u8]) -> Vec<Result<Passage, String>> {
        CorpusReader::new(corpus)
            .map(|line| line.map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn passages_come_in_both_spellings_with_a_bom_and_integer_ids() {
        let corpus = "\u{feff}{\"id\":7,\"title\":\"Peru\",\"text\":\"A country.\",\"url\":\"https://e.org\"}\r\n\n  \n\
                      {\"_id\":\"b\",\"title\":\"\",\"text\":\"B\",\"metadata\":{\"year\":1821},\"other\":1}";
        let mut reader = CorpusReader::new(corpus.as_bytes());
        let passages: Vec<Passage> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(passages[0].id, "7");
        assert_eq!(passages[0].url.as_deref(), Some("https://e.org"));
        assert_eq!(passages[1].id, "b");
        assert_eq!(passages[1].metadata.as_ref().unwrap()["year"], 1821);
        assert_eq!(reader.bytes_read(), corpus.len() as u64);
    }

    #[test]
    fn a_bad_line_is_reported_with_its_number_and_reason_and_the_rest_goes_on() {
        let corpus = b"{\"id\":\"a\",\"text\":\"A\"}\n\
            {\"id\":\n\
            [1]\n\
            {\"text\":\"x\"}\n\
            {\"id\":\"\",\"text\":\"x\"}\n\
            {\"id\":1.5,\"text\":\"x\"}\n\
            {\"id\":\"t\",\"text\":\" \"}\n\
            {\"id\":\"u\",\"title\":\"T\"}\n\
            {\"id\":\"a\",\"text\":\"again\"}\n\
            {\"id\":\"m\",\"text\":\"M\",\"metadata\":[]}\n\
            {\"id\":\"v\",\"title\":3,\"text\":\"V\"}\n\
            {\"id\":\"w\",\"text\":\"\xff\"}\n\
            {\"id\":\"z\",\"text\":\"Z\"}";
        let lines = read(corpus);
        let good: Vec<&str> = lines.iter().flatten().map(|p| p.id.as_str()).collect();
        assert_eq!(good, ["a", "z"]);
        let bad: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.as_ref().err())
            .map(String::as_str)
            .collect();
        let starts = [
            "line 2: not a JSON object: EOF",
            "line 3: not a JSON object: invalid type: sequence",
            "line 4: has no \"id\"",
            "line 5: \"id\" is empty",
            "line 6: \"id\" is not a string or an integer",
            "line 7: \"text\" is empty",
            "line 8: has no \"text\"",
            "line 9: has the id \"a\" of line 1",
            "line 10: \"metadata\" is not an object",
            "line 11: \"title\" is not a string",
            "line 12: not a JSON object: invalid",
        ];
        assert_eq!(bad.len(), starts.len(), "{bad:#?}");
        for (got, start) in bad.iter().zip(starts) {
            assert!(got.starts_with(start), "{got}");
        }
    }

    #[test]
    fn reading_ends_when_the_input_fails() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let mut reader = CorpusReader::new(BufReader::new(Broken));
        assert!(matches!(
            reader.next(),
            Some(Err(LineError {
                line: 1,
                reason: LineReason::Read(_)
            }))
        ));
        assert!(reader.next().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(corpus in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = CorpusReader::new(corpus.as_slice());
            let lines = reader.by_ref().count();
            prop_assert!(lines <= corpus.len());
            prop_assert_eq!(reader.bytes_read(), corpus.len() as u64);
        }
    }
}
