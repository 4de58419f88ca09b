//! Which passages are taken for one another: what a search by words or a model's own index finds in place of
//! the right one. Such passages are learnt in one pack, each the others' hardest negative, at no further cost.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onegen_engine::Model;
use serde::{Deserialize, Serialize};

use super::config::FitConfig;
use super::data::DataConfig;
use super::data::records::{Group, QuestionRecord, read_groups};
use crate::bm25::{Bm25, words};
use crate::ops::{Form, product};

/// Questions of a passage that are searched for.
const QUESTIONS: usize = 3;
/// What a question finds.
const FOUND: usize = 8;
/// Neighbours of a passage that are kept.
const KEPT: usize = 8;
/// Words that more than one in so many passages hold tell nothing.
const COMMON: usize = 20;
/// Texts that are embedded, or questions that are compared, at once.
const BATCH: usize = 256;

/// A passage and those that are taken for it, the likeliest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// The passage
    pub id: String,
    /// The others
    pub near: Vec<String>,
}

/// Searches for the questions of every set of a configuration and writes what stands near each passage, one
/// file a set, in `out`: by words, or with a model where there is one. Gives the files.
///
/// # Errors
/// A data file cannot be read, the model failed, or the disk refused a file.
pub fn mine(config: &FitConfig, model: Option<&Model>, out: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut written = Vec::new();
    for data in &config.data {
        let DataConfig::Questions {
            questions,
            passages,
            ..
        } = data
        else {
            continue;
        };
        let groups = read_groups(passages, questions)?;
        let found = match model {
            Some(model) => by_model(&groups, model)?,
            None => by_words(&groups),
        };
        let name = passages.file_name().unwrap_or(passages.as_os_str());
        let name = name.to_string_lossy();
        let name = name.split('.').next().unwrap_or("passages");
        let path = out.join(format!("{name}.neighbours.jsonl"));
        let file = std::fs::File::create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let mut file = std::io::BufWriter::new(file);
        for (group, near) in groups.iter().zip(found) {
            let near = near.into_iter().map(|at| groups[at].passage.id.clone());
            let neighbours = Neighbours {
                id: group.passage.id.clone(),
                near: near.collect(),
            };
            writeln!(file, "{}", serde_json::to_string(&neighbours)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.flush()
            .with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// The questions of a passage that are searched for.
fn searched(group: &Group) -> impl Iterator<Item = &QuestionRecord> {
    let alone = group
        .questions
        .iter()
        .filter(|question| question.history.is_empty());
    alone.take(QUESTIONS)
}

fn by_words(groups: &[Group]) -> Vec<Vec<usize>> {
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

fn by_model(groups: &[Group], model: &Model) -> Result<Vec<Vec<usize>>> {
    let width = model.hidden_size();
    let mut passages = Vec::with_capacity(groups.len() * width);
    for groups in groups.chunks(BATCH) {
        let texts: Vec<_> = (groups.iter())
            .map(|group| (group.passage.title.as_str(), group.passage.text.as_str()))
            .collect();
        for embedded in model.embed_texts(&texts)? {
            // A passage that does not fit is near to nothing.
            passages.extend(embedded.unwrap_or_else(|_| vec![0.0; width]));
        }
    }
    let mut found = Vec::with_capacity(groups.len());
    for (number, part) in groups.chunks(BATCH).enumerate() {
        let questions: Vec<Vec<&QuestionRecord>> =
            part.iter().map(|group| searched(group).collect()).collect();
        let mut queries = Vec::new();
        for question in questions.iter().flatten() {
            queries.extend(model.embed_query(&question.question)?);
        }
        let rows = queries.len() / width;
        let mut scores = vec![0.0; rows * groups.len()];
        let sizes = (rows, width, groups.len());
        product(
            &queries,
            &passages,
            &mut scores,
            sizes,
            Form::Abt,
            1.0,
            false,
        );
        let mut scores = scores.chunks_exact(groups.len());
        for (at, questions) in questions.iter().enumerate() {
            let rankings = scores.by_ref().take(questions.len()).map(best);
            found.push(nearest(number * BATCH + at, rankings));
        }
    }
    Ok(found)
}

/// The places of the highest scores, the highest first.
fn best(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let most = FOUND.min(order.len());
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if most < order.len() {
        order.select_nth_unstable_by(most, by_score);
    }
    order.truncate(most);
    order.sort_by(by_score);
    order
}

/// What several questions about a passage found in its place: those that were found higher first.
fn nearest(own: usize, rankings: impl Iterator<Item = Vec<usize>>) -> Vec<usize> {
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
    fn the_best_come_in_order_and_the_earlier_of_two_equal_ones_first() {
        let scores: Vec<f32> = (0..20).map(|n| (n / 2) as f32).collect();
        assert_eq!(best(&scores)[..4], [18, 19, 16, 17]);
    }
}
