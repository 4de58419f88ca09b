//! A recorded shape of load: when conversations begin, and how long their turns are. It holds no text.
//!
//! A trace is a file of JSON lines, a conversation each:
//!
//! ```json
//! {"at": 1.25, "turns": [{"question_words": 7, "answer_tokens": 24}, {"think": 4.5, "question_words": 5, "answer_tokens": 9}]}
//! ```
//!
//! `at` is in seconds from the beginning, ascending; `think` is in seconds from the end of the answer before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// A trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Its conversations, in the order in which they begin.
    pub conversations: Vec<TracedConversation>,
}

/// A conversation of a trace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracedConversation {
    /// When its first turn is due, from the trace's beginning.
    #[serde(deserialize_with = "seconds")]
    pub at: Duration,
    /// Its turns.
    pub turns: Vec<TracedTurn>,
}

/// A turn of a trace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracedTurn {
    /// How long after the end of the answer before it the turn is due.
    #[serde(default, deserialize_with = "seconds")]
    pub think: Duration,
    /// Words of the question.
    pub question_words: usize,
    /// Tokens of the answer at most.
    pub answer_tokens: usize,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}, line {line}: {reason}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It has no line.
    #[error("{} holds no conversation; a trace has one a line, as loadtest/traces/README.md describes", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// The file cannot be read, a line is not as described, or there is none.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let text = fs::read_to_string(path).map_err(|source| TraceError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut conversations: Vec<TracedConversation> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let wrong = |reason| TraceError::Line {
                path: path.to_owned(),
                line,
                reason,
            };
            let one: TracedConversation =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            if one.turns.is_empty() || one.turns.iter().any(|turn| turn.answer_tokens == 0) {
                return Err(wrong(
                    "it has no turn, or one with answer_tokens of 0".into(),
                ));
            }
            if conversations.last().is_some_and(|last| last.at > one.at) {
                return Err(wrong(
                    "it begins before the conversation of the line before".into(),
                ));
            }
            conversations.push(one);
        }
        if conversations.is_empty() {
            return Err(TraceError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self { conversations })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        fs::write(&path, text).unwrap();
        Trace::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_trace_is_read_and_a_wrong_line_is_named() {
        let line = r#"{"at": 1.5, "turns": [{"question_words": 7, "answer_tokens": 2},
            {"think": 0.25, "question_words": 1, "answer_tokens": 3}]}"#;
        let line = line.replace('\n', " ");
        let trace = read(&format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(trace.conversations.len(), 2);
        assert_eq!(
            trace.conversations[0].turns[1].think,
            Duration::from_millis(250)
        );
        for (text, reason) in [
            ("", "holds no conversation"),
            ("{\"at\": -1, \"turns\": []}", "line 1: "),
            ("{\"at\": 0, \"turns\": []}", "line 1: it has no turn"),
            (
                "{\"at\": 0, \"rounds\": 1}",
                "line 1: unknown field `rounds`",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let earlier = line.replace("1.5", "1.0");
        let error = read(&format!("{line}\n{earlier}\n")).unwrap_err();
        assert!(error.contains("line 2: it begins before"), "{error}");
    }

    #[test]
    fn the_shipped_trace_is_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/canard.jsonl");
        let trace = Trace::read(Path::new(path)).unwrap();
        assert!(trace.conversations.len() > 50);
    }
}
