//! Questions from a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;

/// Broken lines that are kept with what is wrong with them; more are only counted.
const NAMED: usize = 5;
/// What is asked without a file.
const BUILT_IN: &str = include_str!("questions.txt");

/// Questions, in records that are one or more turns of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    records: Vec<Vec<String>>,
    /// Lines that are no record.
    pub broken: BrokenLines,
}

/// Lines that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokenLines {
    /// How many there are.
    pub count: usize,
    /// The first of them, each with its number and what is wrong with it.
    pub named: Vec<String>,
}

/// Why a file gives no questions.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No line of it is a record.
    #[error(
        "{} holds no question{}; wanted is a text a line, or a JSON object a line with \"question\" (and perhaps \
         \"history\" of {{\"q\"}}), \"prompt\", \"text\" or \"messages\"", .path.display(),
        .broken.named.first().map(|first| format!(" ({first})")).unwrap_or_default()
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        broken: BrokenLines,
    },
}

/// A line of JSON. The first field that is there counts.
#[derive(Deserialize)]
struct Line {
    question: Option<String>,
    #[serde(default)]
    history: Vec<EarlierTurn>,
    prompt: Option<String>,
    text: Option<String>,
    messages: Option<Vec<Message>>,
}

#[derive(Deserialize)]
struct EarlierTurn {
    q: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

impl Line {
    fn questions(self) -> Option<Vec<String>> {
        let turns = if let Some(question) = self.question {
            let earlier = self.history.into_iter().map(|turn| turn.q);
            earlier.chain([question]).collect()
        } else if let Some(messages) = self.messages {
            let users = messages.into_iter().filter(|one| one.role == "user");
            users.map(|message| message.content).collect()
        } else {
            vec![self.prompt.or(self.text)?]
        };
        let says_something = |turns: &Vec<String>| {
            !turns.is_empty() && turns.iter().all(|turn| !turn.trim().is_empty())
        };
        Some(turns).filter(says_something)
    }
}

impl Dataset {
    /// A few questions about countries, elements and the like.
    pub fn built_in() -> Self {
        let records = BUILT_IN.lines().map(|line| vec![line.to_owned()]);
        Self {
            records: records.collect(),
            broken: BrokenLines::default(),
        }
    }

    /// Reads `.jsonl` or text, a record a line, either also with `.gz`.
    ///
    /// # Errors
    /// The file cannot be read, or no line of it is a record. Broken lines among others are counted.
    pub fn read(path: &Path) -> Result<Self, DatasetError> {
        let failed = |source| DatasetError::Io {
            path: path.to_owned(),
            source,
        };
        let name = path.to_string_lossy().to_lowercase();
        let file = File::open(path).map_err(failed)?;
        let (name, file): (_, Box<dyn Read>) = match name.strip_suffix(".gz") {
            Some(name) => (name, Box::new(MultiGzDecoder::new(file))),
            None => (&*name, Box::new(file)),
        };
        let is_json = name.ends_with(".jsonl") || name.ends_with(".ndjson");
        let mut dataset = Self {
            records: Vec::new(),
            broken: BrokenLines::default(),
        };
        let mut file = BufReader::new(file);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            if file.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                break;
            }
            match record(&bytes, is_json) {
                Ok(None) => {}
                Ok(Some(record)) => dataset.records.push(record),
                Err(reason) => dataset.broken.add(number, &reason),
            }
        }
        if dataset.records.is_empty() {
            return Err(DatasetError::Empty {
                path: path.to_owned(),
                broken: dataset.broken,
            });
        }
        Ok(dataset)
    }

    /// All questions, in the file's order.
    pub fn texts(&self) -> impl Iterator<Item = &str> + Clone {
        self.records.iter().flatten().map(String::as_str)
    }

    /// The questions in an order that depends on the seed only, again and again.
    pub fn questions(&self, seed: u64) -> Questions<'_> {
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        Questions {
            records: &self.records,
            order,
            next: 0,
        }
    }
}

/// The record of a line; none of an empty one.
fn record(line: &[u8], is_json: bool) -> Result<Option<Vec<String>>, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let line = line.trim_start_matches('\u{feff}').trim();
    if line.is_empty() {
        return Ok(None);
    }
    if !is_json {
        return Ok(Some(vec![line.to_owned()]));
    }
    let parsed: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let missing = "it has none of question, prompt, text and messages of a user";
    parsed.questions().map(Some).ok_or(missing.to_owned())
}

impl BrokenLines {
    fn add(&mut self, number: usize, reason: &str) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("line {number}: {reason}"));
        }
    }
}

/// The questions of a dataset, one after another.
#[derive(Debug)]
pub struct Questions<'a> {
    records: &'a [Vec<String>],
    order: Vec<usize>,
    next: usize,
}

impl Questions<'_> {
    fn record(&mut self) -> &[String] {
        let record = self.order[self.next % self.order.len()];
        self.next += 1;
        &self.records[record]
    }

    /// So many questions: those of one record if it has several, cut to the number, and otherwise of several records.
    pub fn conversation(&mut self, turns: usize) -> Vec<String> {
        let mut questions: Vec<String> = self.record().to_vec();
        while questions.len() < turns {
            questions.extend_from_slice(self.record());
        }
        questions.truncate(turns);
        questions
    }

    /// A question of exactly so many words, at least one.
    pub fn of_words(&mut self, words: usize) -> String {
        let mut all = Vec::new();
        while all.len() < words.max(1) {
            let record = self.record().join(" ");
            all.extend(record.split_whitespace().map(str::to_owned));
        }
        all.truncate(words.max(1));
        all.join(" ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_form_of_a_line_is_read_and_broken_ones_are_named_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let lines = "{\"question\":\"And now?\",\"history\":[{\"q\":\"Who?\",\"a\":\"I.\"}]}\n\n\
            {\"prompt\":\"P\"}\n{\"text\":\"T\"}\nnonsense\n{\"id\":1}\n\
            {\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"}]}\n";
        fs::write(&path, lines).unwrap();
        let dataset = Dataset::read(&path).unwrap();
        let wanted: [&[&str]; 4] = [&["Who?", "And now?"], &["P"], &["T"], &["U"]];
        assert_eq!(dataset.records, wanted);
        assert_eq!(dataset.broken.count, 2);
        assert!(dataset.broken.named[0].starts_with("line 5: "));
        assert!(dataset.broken.named[1].starts_with("line 6: it has none of"));
    }

    #[test]
    fn a_file_without_a_question_is_refused_with_what_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "{}\n").unwrap();
        let error = Dataset::read(&path).unwrap_err().to_string();
        assert!(error.contains("holds no question (line 1: "), "{error}");
        assert!(error.contains("\"question\""), "{error}");
        let error = Dataset::read(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn conversations_have_the_turns_and_questions_the_words_that_were_asked_for() {
        let records = [vec!["a b", "c"], vec!["d e f"]];
        let dataset = Dataset {
            records: records
                .iter()
                .map(|record| record.iter().map(|&text| text.to_owned()).collect())
                .collect(),
            broken: BrokenLines::default(),
        };
        let mut questions = dataset.questions(1);
        for turns in 1..6 {
            assert_eq!(questions.conversation(turns).len(), turns);
        }
        for words in 1..9 {
            assert_eq!(questions.of_words(words).split(' ').count(), words);
        }
    }
}
