//! The tensors of a model, found by name and read a few rows at a time, so that loading needs little
//! more memory than its result.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::WeightType;
use super::adapter::Change;
use super::ggml::GgmlType;
use super::rows::Rows;
use super::stored::{StoredTensor, damaged, read_header};
use super::weights::{self, EMBEDDING, HEAD, WeightFiles};
use crate::config::ModelConfig;
use crate::error::LoadError;

/// Where every tensor is stored, and how an adapter changes some of them.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    tensors: HashMap<String, StoredTensor>,
    changes: HashMap<String, Change>,
}

impl Checkpoint {
    /// Reads the headers of safetensors files. Where an index assigns a tensor to a file, no other file's is
    /// read.
    ///
    /// # Errors
    /// A file cannot be read, is damaged or cut short, lacks a tensor that the index assigns to it, or holds one
    /// that another file holds, too, where no index says which of the two it is.
    pub(crate) fn open(dir: &Path, files: &WeightFiles) -> Result<Self, LoadError> {
        let mut tensors: HashMap<String, StoredTensor> = HashMap::new();
        let mut holders: HashMap<String, &Path> = HashMap::new();
        for path in &files.paths {
            let mut held = read_header(path)?;
            if let Some(assigned) = &files.assigned {
                held.retain(|name, _| assigned.get(name).is_some_and(|file| file == path));
                let mut own = assigned.iter().filter(|(_, file)| *file == path);
                if let Some((name, _)) = own.find(|(name, _)| !held.contains_key(*name)) {
                    return Err(damaged(
                        path,
                        format!("the index assigns {name} to it, which it lacks"),
                    ));
                }
            }
            for (name, stored) in held {
                if let Some(other) = holders.insert(name.clone(), path) {
                    let reason = format!(
                        "it holds {name}, and so does {}; without model.safetensors.index.json \
                         nothing says which one is meant",
                        other.display()
                    );
                    return Err(damaged(path, reason));
                }
                if let Some(stored) = stored {
                    tensors.insert(name, stored);
                }
            }
        }
        Ok(Self::new(dir, tensors))
    }

    /// Checks that the weights hold nothing that contradicts `config`, which the file `path` holds.
    ///
    /// # Errors
    /// They do, or cannot be read.
    pub(super) fn check_against(
        self,
        config: &ModelConfig,
        path: &Path,
    ) -> Result<Self, LoadError> {
        let inconsistent = |reason| LoadError::Inconsistent {
            path: path.to_owned(),
            reason,
        };
        if let Some(reason) = weights::contradiction(config, self.tensors.keys()) {
            return Err(inconsistent(reason));
        }
        if config.tie_word_embeddings && !self.ends_are_the_same()? {
            let reason =
                format!("tie_word_embeddings is true, but {EMBEDDING} and {HEAD} are not the same");
            return Err(inconsistent(reason));
        }
        Ok(self)
    }

    /// Whether embedding and head, where both are stored, hold the same numbers.
    fn ends_are_the_same(&self) -> Result<bool, LoadError> {
        let (Some(embedding), Some(head)) = (self.tensors.get(EMBEDDING), self.tensors.get(HEAD))
        else {
            return Ok(true);
        };
        if embedding.shape != head.shape || embedding.element != head.element {
            return Ok(false);
        }
        let [(mut one, _), (mut other, _)] = [self.rows_of(EMBEDDING)?, self.rows_of(HEAD)?];
        while !one.is_at_end() {
            if one.next_bytes()? != other.next_bytes()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A checkpoint of tensors that were found already, under the names that transformers gives
    /// them.
    pub(super) fn new(path: &Path, tensors: HashMap<String, StoredTensor>) -> Self {
        Self {
            dir: path.to_owned(),
            tensors,
            changes: HashMap::new(),
        }
    }

    /// The same tensors, but some of them changed as they are read.
    pub(super) fn with_changes(self, changes: HashMap<String, Change>) -> Self {
        Self { changes, ..self }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The embedding's name. A tied embedding may be stored only as the head.
    pub(crate) fn embedding_name(&self) -> &'static str {
        if self.contains(EMBEDDING) {
            EMBEDDING
        } else {
            HEAD
        }
    }

    /// The type that keeps a tensor's numbers exactly as they are stored, or the nearest type that
    /// exists.
    ///
    /// A matrix that an adapter changes no longer consists of its stored levels. Quantising it to 4 bits
    /// again would lose about as much as the adapter adds, so it is kept in 8 bits.
    pub(crate) fn weight_type(&self, name: &str) -> WeightType {
        let stored = match self.tensors.get(name).map(|stored| stored.element) {
            Some(GgmlType::F16) => WeightType::F16,
            Some(GgmlType::BF16) => WeightType::Bf16,
            Some(GgmlType::F32) | None => WeightType::F32,
            Some(GgmlType::Q4_0) => WeightType::Q4_0,
            Some(GgmlType::Q4_1) => WeightType::Q4_1,
            Some(GgmlType::Q4_K) => WeightType::Q4_K,
            Some(_) => WeightType::Q8_0,
        };
        if self.changes.contains_key(name) {
            stored.min(WeightType::Q8_0)
        } else {
            stored
        }
    }

    /// How a tensor's numbers are stored, unless they are changed as they are read.
    pub(crate) fn element(&self, name: &str) -> Option<GgmlType> {
        let unchanged = !self.changes.contains_key(name);
        let stored = self.tensors.get(name).filter(|_| unchanged);
        stored.map(|stored| stored.element)
    }

    /// How a tensor's numbers are stored, before any change by an adapter.
    pub(crate) fn base_element(&self, name: &str) -> Option<GgmlType> {
        self.tensors.get(name).map(|stored| stored.element)
    }

    /// A vector of `len` numbers.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.stored(name, &[len])?.numbers()
    }

    /// The rows of a matrix, in order.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Rows<'_>, LoadError> {
        let stored = self.stored(name, &[rows, columns])?;
        Rows::open(stored, (rows, columns), self.changes.get(name))
    }

    /// The shape of a tensor, including rows that an adapter appends.
    pub(super) fn shape_of(&self, name: &str) -> Result<Vec<usize>, LoadError> {
        Ok(self.shape(name, self.find(name)?))
    }

    /// All rows of a tensor of any shape, and their width. A vector is one row, unless its numbers are
    /// stored in another order; then each number is a row.
    pub(super) fn rows_of(&self, name: &str) -> Result<(Rows<'_>, usize), LoadError> {
        let stored = self.find(name)?;
        let shape = self.shape(name, stored);
        let columns = stored.columns();
        let rows = shape.iter().product::<usize>() / columns.max(1);
        let rows = Rows::open(stored, (rows, columns), self.changes.get(name))?;
        Ok((rows, columns))
    }

    /// The error for weights that the tensor library could not load.
    #[cfg(feature = "mistralrs")]
    pub(crate) fn not_taken_in(&self, source: candle_core::Error) -> LoadError {
        LoadError::Weights {
            dir: self.dir.clone(),
            source,
        }
    }

    fn find(&self, name: &str) -> Result<&StoredTensor, LoadError> {
        self.tensors
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor {
                dir: self.dir.clone(),
                name: name.to_owned(),
            })
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<&StoredTensor, LoadError> {
        let stored = self.find(name)?;
        let own = self.shape(name, stored);
        if own != shape {
            return Err(damaged(
                &stored.path,
                format!("{name} has the shape {own:?}, where the configuration asks for {shape:?}"),
            ));
        }
        Ok(stored)
    }

    /// The shape of a tensor: an adapter may append rows to those that are stored.
    fn shape(&self, name: &str, stored: &StoredTensor) -> Vec<usize> {
        let mut shape = stored.shape.clone();
        let change = self.changes.get(name);
        if let (Some(Change::Rows { ids, .. }), [rows, _]) = (change, &mut shape[..]) {
            let after_last = ids.iter().max().map_or(0, |id| id + 1);
            *rows = after_last.max(*rows);
        }
        shape
    }
}
