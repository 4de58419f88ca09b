//! The record file of one conversation: its token log, and what the KV file beside it holds.
//!
//! One line of JSON and one with its blake3. It is small and always written whole.

use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::tokens::token_log::{SpanKind, TokenLog};

const FORMAT: u32 = 1;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::conversations) struct Record {
    format: u32,
    pub(in crate::conversations) conversation: String,
    /// Fingerprint of the tokenizer. With another tokenizer the ids would mean something else.
    pub(in crate::conversations) tokenizer: String,
    ids: Vec<u32>,
    /// Runs of one kind, by its name.
    spans: Vec<(String, usize)>,
    pub(in crate::conversations) kv: KvRecord,
}

/// What the KV file holds: keys and values of the log's first positions, in consecutive pieces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::conversations) struct KvRecord {
    /// Fingerprint of the model and kernels that computed them. For any other they are useless.
    pub(in crate::conversations) made_by: String,
    pub(in crate::conversations) pieces: Vec<Piece>,
}

/// The positions that one turn added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::conversations) struct Piece {
    pub(in crate::conversations) positions: usize,
    pub(in crate::conversations) blake3: String,
}

impl Record {
    pub(in crate::conversations) fn new(
        conversation: &str,
        tokenizer: &str,
        log: &TokenLog,
        kv: KvRecord,
    ) -> Self {
        let spans = log.spans().into_iter();
        Self {
            format: FORMAT,
            conversation: conversation.to_owned(),
            tokenizer: tokenizer.to_owned(),
            ids: log.ids().to_vec(),
            spans: spans
                .map(|span| (span.kind.as_str().to_owned(), span.len))
                .collect(),
            kv,
        }
    }

    /// The file's bytes.
    pub(in crate::conversations) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let sum = blake3::hash(&bytes).to_hex();
        bytes.extend_from_slice(format!("\n{sum}\n").as_bytes());
        Ok(bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub(in crate::conversations) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "it is cut short or damaged".to_owned();
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let (json, sum) = text.split_once('\n').ok_or_else(damaged)?;
        if blake3::hash(json.as_bytes()).to_hex().as_str() != sum.trim_end() {
            return Err(damaged());
        }
        let record: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if record.format != FORMAT {
            return Err(format!(
                "it has format {}, but this version reads {FORMAT}",
                record.format
            ));
        }
        Ok(record)
    }

    /// The token log, if it is one of this model.
    ///
    /// # Errors
    /// As of [`Self::log`], or its passages are no blocks although the model's are.
    pub(in crate::conversations) fn log_for(&self, model: &Model) -> Result<TokenLog, String> {
        let log = self.log(model.config().vocab_size)?;
        if let Some(marks) = model.tokens().block_marks() {
            // The record may be from a time when the model's passages saw everything before them.
            let whole = marks.check(log.ids());
            whole.map_err(|reason| format!("its passages are no blocks: {reason}"))?;
        }
        Ok(log)
    }

    /// The token log.
    ///
    /// # Errors
    /// The numbers of ids and kinds differ, or an id is not below `vocabulary`.
    pub(in crate::conversations) fn log(&self, vocabulary: usize) -> Result<TokenLog, String> {
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(format!(
                "it holds the id {id} with a vocabulary of {vocabulary}"
            ));
        }
        let mut log = TokenLog::default();
        let mut rest = &self.ids[..];
        for (name, len) in &self.spans {
            let kind = SpanKind::ALL
                .into_iter()
                .find(|kind| kind.as_str() == name)
                .ok_or_else(|| format!("it holds tokens of the unknown kind {name:?}"))?;
            let (ids, others) = rest
                .split_at_checked(*len)
                .ok_or("it has kinds for more tokens than it holds")?;
            log.extend(ids, kind);
            rest = others;
        }
        match rest.len() {
            0 => Ok(log),
            left => Err(format!("it has no kind for {left} tokens")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record() -> (TokenLog, Record) {
        let mut log = TokenLog::default();
        log.extend(&[5, 6, 7], SpanKind::Prompt);
        log.push(1, SpanKind::Retrieval);
        log.extend(&[8, 9], SpanKind::Passage);
        let kv = KvRecord {
            made_by: "model".into(),
            pieces: vec![Piece {
                positions: 5,
                blake3: "sum".into(),
            }],
        };
        let record = Record::new("a \"name\"\n", "tokenizer", &log, kv);
        (log, record)
    }

    #[test]
    fn a_record_is_read_back_as_it_was() {
        let (log, record) = record();
        let read = Record::parse(&record.to_bytes().unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.log(10).unwrap(), log);
        assert!(read.log(9).unwrap_err().contains("the id 9"));
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let (_, record) = record();
        let bytes = record.to_bytes().unwrap();
        for at in 0..bytes.len() - 1 {
            assert!(Record::parse(&bytes[..at]).is_err(), "cut after {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(Record::parse(&flipped).is_err(), "flipped at {at}");
        }
    }
}
