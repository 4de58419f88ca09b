//! `onegen-train mine`: finds the neighbours of the passages in a configuration's data sets, by words or
//! with a model's embeddings, and writes them to files.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onegen_engine::Model;

use super::config::FitConfig;
use super::data::config::DataConfig;
use super::data::neighbours::{FOUND, Neighbours, by_words, nearest, searched};
use super::data::records::{Group, QuestionRecord, read_groups};
use crate::ops::{TransposedFactor, product};

/// Texts that are embedded at once, or questions that are compared at once.
const BATCH: usize = 256;

/// Searches for the questions of every set of a configuration, with a model if there is one, and otherwise
/// by words. Writes the neighbours of each passage to `out`, one file for each set, and returns the files.
///
/// # Errors
/// A data file cannot be read, the model failed, or writing failed.
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

fn by_model(groups: &[Group], model: &Model) -> Result<Vec<Vec<usize>>> {
    let width = model.hidden_size();
    let mut passages = Vec::with_capacity(groups.len() * width);
    for groups in groups.chunks(BATCH) {
        let texts: Vec<_> = (groups.iter())
            .map(|group| (group.passage.title.as_str(), group.passage.text.as_str()))
            .collect();
        for embedded in model.embed_texts(&texts)? {
            // A passage that is too long gets a zero vector, so nothing finds it.
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
            TransposedFactor::Abt,
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

/// The indices of the highest scores, the highest first.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_in_order_and_the_earlier_of_two_equal_ones_first() {
        let scores: Vec<f32> = (0..20).map(|n| (n / 2) as f32).collect();
        assert_eq!(best(&scores)[..4], [18, 19, 16, 17]);
    }
}
