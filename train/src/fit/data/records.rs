//! Questions and passages in files of JSON lines, gzipped or not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A passage.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PassageRecord {
    /// The id by which questions name it
    pub id: String,
    /// Its title
    #[serde(default)]
    pub title: String,
    /// Its text
    pub text: String,
}

/// A turn before a question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PastTurn {
    /// The earlier question
    pub q: String,
    /// Its answer
    pub a: String,
}

/// A question. Other fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QuestionRecord {
    /// Its name
    pub id: String,
    /// The question
    pub question: String,
    /// Its answers; the model is trained on the first
    #[serde(default)]
    pub answers: Vec<String>,
    /// The passage with the answer
    #[serde(default)]
    pub passage_id: Option<String>,
    /// All passages that are right
    #[serde(default)]
    pub passage_ids: Vec<String>,
    /// The dialogue before it
    #[serde(default)]
    pub history: Vec<PastTurn>,
    /// Whether the passage contains the answer
    #[serde(default = "yes")]
    pub answerable: bool,
    /// Whether the answer is known
    #[serde(default = "yes")]
    pub answer_known: bool,
}

fn yes() -> bool {
    true
}

/// Opens a text file. A file whose name ends in `.gz` is decompressed.
///
/// # Errors
/// The file cannot be opened.
pub fn open_text(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::new(file)))
}

/// Reads a file of JSON lines. A file whose name ends in `.gz` is decompressed.
///
/// # Errors
/// The file cannot be read, or a line is not a valid record. The error names file and line.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let numbered = read_numbered(path)?.into_iter();
    Ok(numbered.map(|(_, record)| record).collect())
}

/// The same, with the line number of each record.
///
/// # Errors
/// As [`read_lines`].
pub fn read_numbered<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let mut records = Vec::new();
    for (number, line) in open_text(path)?.lines().enumerate() {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line).with_context(place)?;
            records.push((number + 1, record));
        }
    }
    ensure!(!records.is_empty(), "{} holds no records", path.display());
    Ok(records)
}

/// Questions that belong to one passage.
#[derive(Clone, Debug)]
pub struct Group {
    /// The passage
    pub passage: PassageRecord,
    /// Its questions
    pub questions: Vec<QuestionRecord>,
}

/// Reads passages and the questions about them. Passages without a question are kept as negatives.
///
/// # Errors
/// As [`read_lines`], or a question names a passage that does not exist.
pub fn read_groups(passages: &Path, questions: &Path) -> Result<Vec<Group>> {
    let passages_path = passages;
    let mut groups: Vec<Group> = read_lines(passages)?
        .into_iter()
        .map(|passage| Group {
            passage,
            questions: vec![],
        })
        .collect();
    let places: HashMap<String, usize> = (groups.iter().enumerate())
        .map(|(at, group)| (group.passage.id.clone(), at))
        .collect();
    for question in read_lines::<QuestionRecord>(questions)? {
        let Some(id) = &question.passage_id else {
            continue;
        };
        let at = places.get(id).with_context(|| {
            format!(
                "question {} of {} names the passage {id}, which is not in {}",
                question.id,
                questions.display(),
                passages_path.display()
            )
        })?;
        groups[*at].questions.push(question);
    }
    Ok(groups)
}
