//! One JSON object a line.

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::document::Document;
use super::left_out::LeftOut;
use super::onegen_db;
use super::record::{self, Position, RecordReason};
use super::source::{RECORD_LIMIT, Source};

/// Empty lines are skipped.
pub(super) struct Lines {
    input: Box<dyn BufRead + Send>,
    limit: u64,
    line: u64,
    bytes_read: u64,
    compressed: Option<Arc<AtomicU64>>,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn new(input: impl BufRead + Send + 'static) -> Self {
        Self {
            input: Box::new(input),
            limit: RECORD_LIMIT,
            line: 0,
            bytes_read: 0,
            compressed: None,
            buffer: Vec::new(),
        }
    }

    /// Lines of an input whose read bytes are counted elsewhere.
    pub(super) fn compressed(
        input: impl BufRead + Send + 'static,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        Self {
            compressed: Some(bytes_read),
            ..Self::new(input)
        }
    }

    /// Reads the next line into the buffer; `false` at the end.
    fn read_line(&mut self) -> Result<bool, RecordReason> {
        self.buffer.clear();
        self.line += 1;
        let read = (&mut self.input)
            .take(self.limit + 1)
            .read_until(b'\n', &mut self.buffer)
            .map_err(RecordReason::Read)?;
        self.bytes_read += read as u64;
        if read as u64 > self.limit && !self.buffer.ends_with(b"\n") {
            // The large buffer is not kept, because later lines are rarely as long.
            self.buffer = Vec::new();
            let skipped = self.input.skip_until(b'\n').map_err(RecordReason::Read)?;
            self.bytes_read += skipped as u64;
            return Err(RecordReason::TooLong { limit: self.limit });
        }
        Ok(read > 0)
    }
}

impl Source for Lines {
    fn next(&mut self, _: &mut LeftOut) -> Option<(Position, Result<Document, RecordReason>)> {
        loop {
            let read = self.read_line();
            let position = Position::Line(self.line);
            match read {
                Ok(true) => {}
                Ok(false) => return None,
                Err(reason) => return Some((position, Err(reason))),
            }
            let mut line = self.buffer.as_slice();
            if self.line == 1 {
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Some((position, document(line)));
            }
        }
    }

    fn bytes_read(&self) -> u64 {
        match &self.compressed {
            Some(bytes) => bytes.load(Ordering::Relaxed),
            None => self.bytes_read,
        }
    }
}

fn document(line: &[u8]) -> Result<Document, RecordReason> {
    let fields: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        let column = error.column();
        let message = error.to_string();
        // The parser adds its own line number, which is always 1, because it gets one line at a
        // time.
        let message = match message.split(" at line ").next().unwrap_or_default() {
            // The parser expects the other half of the pair.
            message @ ("unexpected end of hex escape" | "lone leading surrogate in hex escape") => {
                format!("{message}: half of a surrogate pair stands alone")
            }
            message => message.to_owned(),
        };
        RecordReason::Json { message, column }
    })?;
    if onegen_db::is(&fields) {
        onegen_db::document(fields)
    } else {
        record::document(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader, Cursor};

    use proptest::prelude::*;

    use super::*;
    use crate::ingest::corpus::{Corpus, RecordError};

    fn open(lines: &[u8]) -> Corpus {
        Corpus::from_lines(Cursor::new(lines.to_vec()))
    }

    fn read(lines: &[u8]) -> Vec<Result<Document, String>> {
        open(lines)
            .map(|line| line.map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn passages_come_in_both_spellings_with_a_bom_and_integer_ids() {
        let corpus = "\u{feff}{\"id\":7,\"title\":\"Peru\",\"text\":\"A country.\",\"url\":\"https://e.org\"}\r\n\n  \n\
                      {\"_id\":\"b\",\"title\":\"\",\"text\":\"B\",\"metadata\":{\"year\":1821},\"other\":1}";
        let mut reader = open(corpus.as_bytes());
        let passages: Vec<Document> = reader.by_ref().map(Result::unwrap).collect();
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
        let mut reader = Corpus::from_lines(BufReader::new(Broken));
        assert!(matches!(
            reader.next(),
            Some(Err(RecordError {
                position: Position::Line(1),
                reason: RecordReason::Read(_)
            }))
        ));
        assert!(reader.next().is_none());
    }

    #[test]
    fn a_line_beyond_the_limit_is_bad_and_the_next_is_read() {
        let long = format!("{{\"id\":\"long\",\"text\":\"{}\"}}\n", "x".repeat(200));
        let (a, b) = (
            "{\"id\":\"a\",\"text\":\"A\"}\n",
            "{\"id\":\"b\",\"text\":\"B\"}",
        );
        let corpus = [a, &long, b, "\n", &long].concat();
        let mut lines = Lines {
            limit: a.len() as u64 - 1,
            ..Lines::new(Cursor::new(corpus.clone()))
        };
        let mut read = Vec::new();
        while let Some((position, record)) = lines.next(&mut LeftOut::default()) {
            assert!(lines.buffer.capacity() < 200);
            read.push((position.to_string(), record.map_err(|e| e.to_string())));
        }
        let bad: Vec<&str> = read
            .iter()
            .filter_map(|(_, line)| line.as_ref().err())
            .map(String::as_str)
            .collect();
        assert_eq!(bad, ["longer than 21 bytes"; 2]);
        let good: Vec<(&str, &str)> = read
            .iter()
            .filter_map(|(at, line)| Some((&**at, &*line.as_ref().ok()?.id)))
            .collect();
        assert_eq!(good, [("line 1", "a"), ("line 3", "b")]);
        assert_eq!(lines.bytes_read(), corpus.len() as u64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(corpus in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = open(&corpus);
            let lines = reader.by_ref().count();
            prop_assert!(lines <= corpus.len());
            prop_assert_eq!(reader.bytes_read(), corpus.len() as u64);
        }
    }
}
