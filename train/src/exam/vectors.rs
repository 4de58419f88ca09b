//! Vectors of a separate retriever, as `train/exam/retriever_vectors.py` writes them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use super::data::Set;
use super::pool::nearest;

/// The vectors of one set: those of its passages and of its questions' last messages.
pub struct Vectors {
    /// Vectors of length 1 by passage id.
    passages: HashMap<String, Vec<f32>>,
    /// The same by question id.
    questions: HashMap<String, Vec<f32>>,
}

impl Vectors {
    /// Reads a safetensors file with the tensors `passages` and `questions` (rows, width) in f32 and, as
    /// bytes of text with an id a line, `passage_ids` and `question_ids`.
    ///
    /// # Errors
    /// The file cannot be read or lacks a tensor, or the numbers of ids and rows differ.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("{} holds no vectors", path.display());
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).with_context(what)?;
        let tensor = |name: &str| -> Result<&Tensor> {
            let found = tensors
                .get(name)
                .with_context(|| format!("there is no tensor {name}"));
            found.with_context(what)
        };
        let rows = |name: &str, ids: &str| -> Result<HashMap<String, Vec<f32>>> {
            let rows = tensor(name)?.to_vec2::<f32>().with_context(what)?;
            let ids = String::from_utf8(tensor(ids)?.to_vec1().with_context(what)?)?;
            let ids: Vec<_> = ids.lines().map(str::to_owned).collect();
            ensure!(
                ids.len() == rows.len(),
                "{}: {} ids for {} {name}",
                path.display(),
                ids.len(),
                rows.len()
            );
            Ok(ids.into_iter().zip(rows).collect())
        };
        Ok(Self {
            passages: rows("passages", "passage_ids")?,
            questions: rows("questions", "question_ids")?,
        })
    }

    /// The `k` nearest passages of every question of a set.
    ///
    /// # Errors
    /// A question or a passage has no vector.
    pub fn rank(&self, set: &Set, k: usize) -> Result<Vec<Vec<usize>>> {
        let of_passage = |id: &String| {
            let found = self.passages.get(id);
            found.with_context(|| format!("{}: no vector for the passage {id}", set.name))
        };
        let passages = set.passages.iter();
        let passages: Vec<_> = passages
            .map(|passage| of_passage(&passage.id).map(Some))
            .collect::<Result<_>>()?;
        let rank = |id: &String| {
            let vector = self.questions.get(id);
            let vector = vector.with_context(|| format!("{}: no vector for {id}", set.name))?;
            let near = nearest(&passages, vector, k);
            Ok(near.into_iter().map(|(at, _)| at).collect())
        };
        set.questions
            .iter()
            .map(|question| rank(&question.id))
            .collect()
    }
}
