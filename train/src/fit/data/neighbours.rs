//! Neighbours: passages that a search finds in place of the right one. They are trained in one pack, each the
//! others' hardest negative, at no further cost.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::records::{Group, QuestionRecord, read_lines};
use crate::bm25::{Bm25, words};

/// The most questions of a passage that are searched for.
const QUESTIONS: usize = 3;
/// How many passages a search for a question returns.
pub(in crate::fit) const FOUND: usize = 8;
/// The most neighbours of a passage that are kept.
const KEPT: usize = 8;
/// Words that occur in more than one of this many passages are ignored.
const COMMON: usize = 20;
/// Where a set's neighbours come from: `"words"`, or the name of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum NeighbourSource {
    /// A word-based search (BM25) for each passage's own questions, done when the data are read
    Words,
    /// A file that `onegen-train mine` wrote
    File(PathBuf),
}

impl From<PathBuf> for NeighbourSource {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("words") {
            Self::Words
        } else {
            Self::File(path)
        }
    }
}

impl From<NeighbourSource> for PathBuf {
    fn from(source: NeighbourSource) -> Self {
        match source {
            NeighbourSource::Words => "words".into(),
            NeighbourSource::File(path) => path,
        }
    }
}

impl NeighbourSource {
    /// For each group its neighbours, the likeliest first.
    ///
    /// # Errors
    /// The file cannot be read, or names a passage that does not exist.
    pub(super) fn find(&self, groups: &[Group]) -> Result<Vec<Vec<usize>>> {
        match self {
            Self::Words => Ok(by_words(groups)),
            Self::File(path) => read(path, groups),
        }
    }
}

/// A passage and its neighbours, the likeliest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The passage
    pub id: String,
    /// Its neighbours
    pub near: Vec<String>,
}

/// Reads the neighbours of groups from a file.
///
/// # Errors
/// The file cannot be read, or names a passage that does not exist.
fn read(path: &Path, groups: &[Group]) -> Result<Vec<Vec<usize>>> {
    let places: HashMap<&str, usize> = (groups.iter().enumerate())
        .map(|(at, group)| (group.passage.id.as_str(), at))
        .collect();
    let place = |id: &String| {
        let place = places.get(id.as_str()).copied();
        place.with_context(|| {
            format!(
                "{} names the passage {id}, which is not there",
                path.display()
            )
        })
    };
    let mut near = vec![vec![]; groups.len()];
    for record in read_lines::<Neighbours>(path)? {
        near[place(&record.id)?] = record.near.iter().map(place).collect::<Result<_>>()?;
    }
    Ok(near)
}

/// The questions of a passage that are searched for.
pub(in crate::fit) fn searched(group: &Group) -> impl Iterator<Item = &QuestionRecord> {
    let alone = group
        .questions
        .iter()
        .filter(|question| question.history.is_empty());
    alone.take(QUESTIONS)
}

/// For each group the groups that a word-based search finds for its questions in its place.
pub(in crate::fit) fn by_words(groups: &[Group]) -> Vec<Vec<usize>> {
    let texts = groups
        .iter()
        .map(|group| (&group.passage.title, &group.passage.text));
    let mut holding = HashMap::<String, usize>::new();
    for (title, text) in texts.clone() {
        let mut own: Vec<String> = words(title).chain(words(text)).collect();
        own.sort_unstable();
        own.dedup();
        own.into_iter()
            .for_each(|word| *holding.entry(word).or_default() += 1);
    }
    let bm25 = Bm25::new(texts.map(|(title, text)| (title.as_str(), text.as_str())));
    let telling = |word: &String| {
        let holding = holding.get(word).copied().unwrap_or(0);
        holding * COMMON <= groups.len().max(COMMON)
    };
    let found = groups.iter().enumerate().map(|(own, group)| {
        let rankings = searched(group).map(|question| {
            let query: Vec<String> = words(&question.question).filter(telling).collect();
            bm25.rank(&query.join(" "), FOUND)
        });
        nearest(own, rankings)
    });
    found.collect()
}

/// Combines the results of several questions about a passage, without the passage itself. Results
/// with better ranks come first.
pub(in crate::fit) fn nearest(
    own: usize,
    rankings: impl Iterator<Item = Vec<usize>>,
) -> Vec<usize> {
    let mut weights = HashMap::<usize, f64>::new();
    for ranking in rankings {
        for (rank, at) in ranking.into_iter().enumerate().filter(|(_, at)| *at != own) {
            *weights.entry(at).or_default() += 1.0 / (1.0 + rank as f64);
        }
    }
    let mut near: Vec<(usize, f64)> = weights.into_iter().collect();
    near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    near.truncate(KEPT);
    near.into_iter().map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::data::records::PassageRecord;

    fn group(id: &str, text: &str, question: &str) -> Group {
        Group {
            passage: PassageRecord {
                id: id.into(),
                title: String::new(),
                text: text.into(),
            },
            questions: vec![
                serde_json::from_value(serde_json::json!({
                    "id": id, "question": question, "answers": ["x"], "passage_id": id,
                }))
                .unwrap(),
            ],
        }
    }

    #[test]
    fn passages_that_share_a_questions_rare_words_are_neighbours() {
        let mut groups: Vec<Group> = (0..40)
            .map(|n| group(&n.to_string(), &format!("word{n} and more"), "which?"))
            .collect();
        groups.push(group("a", "the quarn of orm", "how high is quarn?"));
        groups.push(group("b", "a quarn elsewhere", "which quarn?"));
        let near = by_words(&groups);
        assert_eq!(near[40], [41]);
        assert_eq!(near[41], [40]);
        assert!(near[0].is_empty());
    }

    #[test]
    fn words_is_a_search_and_anything_else_a_file() {
        let source = |text: &str| serde_json::from_value::<NeighbourSource>(text.into()).unwrap();
        assert_eq!(source("words"), NeighbourSource::Words);
        assert_eq!(
            source("near/words.jsonl"),
            NeighbourSource::File("near/words.jsonl".into())
        );
        assert_eq!(serde_json::to_value(source("words")).unwrap(), "words");
    }
}
