//! Question sets: questions, and the passages with the answers.
//!
//! Three formats are read: `NAME.questions.jsonl.gz` with `NAME.passages.jsonl.gz`, HotpotQA's JSON, and a
//! JSON list of passages that replaces the second file.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use onegen_engine::Passage;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::score::Rule;
use crate::fit::data::records::open_text;

/// An earlier turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// What was asked.
    pub q: String,
    /// What was answered.
    pub a: String,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id in the set.
    pub id: String,
    /// The last message alone, as the user wrote it.
    pub question: String,
    /// The right answers; empty if they are unknown or do not exist.
    pub answers: Vec<String>,
    /// Places in [`Set::passages`] of the passages with the answer, in the order in which they are
    /// read.
    pub gold: Vec<usize>,
    /// The turns before it.
    pub history: Vec<Exchange>,
    /// The question made standalone by a human.
    pub rewrite: Option<String>,
    /// False if the gold passage does not contain the answer and the model must say so.
    pub answerable: bool,
}

/// Questions and the pool of passages to find the answers in.
#[derive(Debug, Clone)]
pub struct Set {
    /// The file's name without its ending.
    pub name: String,
    /// What is asked.
    pub questions: Vec<Question>,
    /// The whole pool, in the order of the file.
    pub passages: Vec<Passage>,
    /// Whether most questions need several passages.
    pub multi_hop: bool,
}

#[derive(Deserialize)]
struct QuestionLine {
    id: String,
    question: String,
    #[serde(default)]
    answers: Vec<String>,
    passage_id: String,
    #[serde(default)]
    passage_ids: Vec<String>,
    #[serde(default)]
    history: Vec<Exchange>,
    rewrite: Option<String>,
    answerable: Option<bool>,
}

#[derive(Deserialize)]
struct PassageLine {
    id: String,
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct TitledText {
    title: String,
    text: String,
}

/// A question of HotpotQA: contexts and supporting facts name passages by their titles.
#[derive(Deserialize)]
struct HotpotQuestion {
    #[serde(rename = "_id")]
    id: String,
    question: String,
    answer: String,
    context: Vec<(String, Vec<String>)>,
    supporting_facts: Vec<(String, usize)>,
}

impl Set {
    /// Reads a set. `spec` is `STEM` for `STEM.questions.jsonl[.gz]` and `STEM.passages.jsonl[.gz]`,
    /// `FILE.json` for HotpotQA's format (with `FILE_corpus.json` beside it as the pool, or otherwise the
    /// union of its contexts), or `STEM=FILE.json` where the passages are a JSON list of titles and texts.
    ///
    /// # Errors
    /// A file is missing or damaged, or a question names a passage that does not exist.
    pub fn read(spec: &str) -> Result<Self> {
        let (stem, passages) = match spec.split_once('=') {
            Some((stem, passages)) => (stem, Some(passages)),
            None => (spec, None),
        };
        let name = Path::new(stem.trim_end_matches(".json"))
            .file_name()
            .with_context(|| format!("{spec:?} names no file"))?
            .to_string_lossy()
            .into_owned();
        let (questions, passages) = if stem.ends_with(".json") {
            hotpot(Path::new(stem), passages.map(Path::new))?
        } else {
            let questions: Vec<QuestionLine> = lines(&beside(stem, ".questions.jsonl")?)?;
            let passages = match passages {
                None => lines(&beside(stem, ".passages.jsonl")?)?,
                Some(file) => numbered(Path::new(file), &questions)?,
            };
            (questions, passages)
        };
        Self::joined(name, questions, passages)
    }

    fn joined(
        name: String,
        questions: Vec<QuestionLine>,
        passages: Vec<PassageLine>,
    ) -> Result<Self> {
        let at: HashMap<&str, usize> = passages
            .iter()
            .enumerate()
            .map(|(at, passage)| (passage.id.as_str(), at))
            .collect();
        let join = |line: QuestionLine| {
            let mut ids = line.passage_ids;
            if ids.is_empty() {
                ids.push(line.passage_id);
            }
            let find = |id: &String| {
                let found = at.get(id.as_str()).copied();
                found.with_context(|| format!("{name}: {} names no passage: {id}", line.id))
            };
            Ok(Question {
                gold: ids.iter().map(find).collect::<Result<_>>()?,
                id: line.id,
                question: line.question,
                answers: line.answers,
                history: line.history,
                rewrite: line.rewrite,
                answerable: line.answerable != Some(false),
            })
        };
        let questions: Vec<Question> = questions.into_iter().map(join).collect::<Result<_>>()?;
        ensure!(!questions.is_empty(), "{name} holds no questions");
        let several = questions.iter().filter(|question| question.gold.len() > 1);
        let multi_hop = 2 * several.count() > questions.len();
        let passage = |line: PassageLine| Passage {
            id: line.id,
            title: line.title,
            text: line.text,
            url: None,
            score: 0.0,
        };
        Ok(Self {
            multi_hop,
            passages: passages.into_iter().map(passage).collect(),
            name,
            questions,
        })
    }

    /// Drops the questions with these ids.
    pub fn exclude(&mut self, ids: &HashSet<String>) {
        self.questions
            .retain(|question| !ids.contains(&question.id));
    }

    /// Draws `limit` questions, in the order of the file. The pool stays whole.
    pub fn sample(&mut self, limit: usize, seed: u64) {
        let mut order: Vec<usize> = (0..self.questions.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let chosen: HashSet<usize> = order.into_iter().take(limit).collect();
        let mut at = 0..;
        self.questions
            .retain(|_| at.next().is_some_and(|at| chosen.contains(&at)));
    }

    /// The data set's rule for F1.
    pub fn rule(&self) -> Rule {
        if self.multi_hop {
            Rule::Hotpot
        } else if self.questions.iter().any(|question| !question.answerable) {
            Rule::Squad2
        } else {
            Rule::Squad1
        }
    }
}

/// The ids in a file, one a line.
///
/// # Errors
/// The file cannot be read.
pub fn ids(path: &Path) -> Result<HashSet<String>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The values of a file of JSON lines, gzipped where its name ends in `.gz`.
///
/// # Errors
/// The file cannot be read, or a line is not what it should be.
pub fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let parse = |(number, line): (usize, std::io::Result<String>)| {
        let place = || format!("{}, line {}", path.display(), number + 1);
        serde_json::from_str(&line.with_context(place)?).with_context(place)
    };
    let lines = open_text(path)?.lines().enumerate();
    lines.map(parse).collect()
}

/// `stem` with an ending, gzipped or not.
fn beside(stem: &str, ending: &str) -> Result<PathBuf> {
    let candidates = [format!("{stem}{ending}.gz"), format!("{stem}{ending}")].map(PathBuf::from);
    let found = candidates.iter().find(|path| path.exists());
    match found {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "there is neither {} nor one without .gz",
            candidates[0].display()
        ),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parsed = serde_json::from_reader(BufReader::new(file));
    parsed.with_context(|| format!("{} is not what it should be", path.display()))
}

/// Reads a list of titles and texts. A passage's id is its number after the prefix that the
/// questions use.
fn numbered(path: &Path, questions: &[QuestionLine]) -> Result<Vec<PassageLine>> {
    let listed: Vec<TitledText> = json(path)?;
    let first = questions
        .first()
        .and_then(|line| line.passage_id.rsplit_once(':'));
    let (prefix, _) = first.context("the questions name no passages as PREFIX:NUMBER")?;
    let each = listed
        .into_iter()
        .enumerate()
        .map(|(number, listed)| PassageLine {
            id: format!("{prefix}:{number}"),
            title: listed.title,
            text: listed.text,
        });
    Ok(each.collect())
}

fn hotpot(path: &Path, corpus: Option<&Path>) -> Result<(Vec<QuestionLine>, Vec<PassageLine>)> {
    let questions: Vec<HotpotQuestion> = json(path)?;
    let usual = path.with_file_name(format!(
        "{}_corpus.json",
        path.file_stem().unwrap_or_default().to_string_lossy()
    ));
    let corpus = corpus.or(usual.exists().then_some(usual.as_path()));
    let mut texts: Vec<(String, Vec<String>)> = match corpus {
        Some(corpus) => json::<serde_json::Map<_, _>>(corpus)?
            .into_iter()
            .map(|(title, sentences)| Ok((title, serde_json::from_value(sentences)?)))
            .collect::<Result<_>>()
            .with_context(|| format!("{} holds no lists of sentences", corpus.display()))?,
        None => questions
            .iter()
            .flat_map(|question| question.context.clone())
            .collect(),
    };
    let mut known = HashSet::new();
    texts.retain(|(title, _)| known.insert(title.clone()));
    let question = |question: HotpotQuestion| {
        let mut titles = Vec::new();
        for (title, _) in question.supporting_facts {
            if !titles.contains(&title) {
                titles.push(title);
            }
        }
        let first = titles.first();
        Ok(QuestionLine {
            passage_id: first
                .with_context(|| format!("{} has no supporting facts", question.id))?
                .clone(),
            id: question.id,
            question: question.question,
            answers: vec![question.answer],
            passage_ids: titles,
            history: vec![],
            rewrite: None,
            answerable: None,
        })
    };
    let questions = questions.into_iter().map(question).collect::<Result<_>>()?;
    let passage = |(title, sentences): (String, Vec<String>)| PassageLine {
        id: title.clone(),
        title,
        text: sentences.concat(),
    };
    Ok((questions, texts.into_iter().map(passage).collect()))
}
