//! A model's tensors as numbers, for training and conversion.

use super::checkpoint::Checkpoint;
use super::ggml::GgmlType;
use super::rows::Rows;
use super::weights::{self, EMBEDDING};
use crate::config::ModelConfig;
use crate::error::LoadError;

/// A model's tensors as f32, under the names that transformers gives them; merged where an adapter changes them.
#[derive(Debug)]
pub struct Tensors {
    checkpoint: Checkpoint,
    /// The tensors that the configuration calls for.
    names: Vec<String>,
}

/// A tensor that is read row by row; a vector is one row.
pub struct TensorRows<'a> {
    rows: Rows<'a>,
    row: Vec<f32>,
}

impl Tensors {
    pub(super) fn new(checkpoint: Checkpoint, config: &ModelConfig) -> Self {
        Self {
            checkpoint,
            names: weights::names(config),
        }
    }

    /// The name and shape of every tensor that the configuration calls for, embedding first.
    ///
    /// # Errors
    /// One is missing.
    pub fn list(&self) -> Result<Vec<(String, Vec<usize>)>, LoadError> {
        let named = self.names.iter().map(|name| {
            let shape = self.checkpoint.shape_of(self.stored_name(name))?;
            Ok((name.clone(), shape))
        });
        named.collect()
    }

    /// How a tensor's numbers are stored; `None` if an adapter changes them.
    pub fn stored_as(&self, name: &str) -> Option<GgmlType> {
        self.checkpoint.element(self.stored_name(name))
    }

    /// How a tensor's numbers are stored, before any change by an adapter.
    pub fn base_stored_as(&self, name: &str) -> Option<GgmlType> {
        self.checkpoint.base_element(self.stored_name(name))
    }

    /// Opens a tensor to read it row by row, with only a few rows in memory.
    ///
    /// # Errors
    /// There is none of that name, or its file cannot be read.
    pub fn rows(&self, name: &str) -> Result<TensorRows<'_>, LoadError> {
        let (rows, columns) = self.checkpoint.rows_of(self.stored_name(name))?;
        Ok(TensorRows {
            rows,
            row: vec![0.0; columns],
        })
    }

    /// A vector of `len` numbers.
    ///
    /// # Errors
    /// There is none of that name and length, or its file cannot be read.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.checkpoint.vector(name, len)
    }

    /// A matrix of `rows` times `columns` numbers, row by row.
    ///
    /// # Errors
    /// There is none of that name and shape, or its file cannot be read.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, LoadError> {
        let mut numbers = vec![0.0; rows * columns];
        let mut stored = self.checkpoint.matrix(name, rows, columns)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            stored.next_row(row)?;
        }
        Ok(numbers)
    }

    /// The name of the embedding. A tied embedding may be stored only as the head.
    pub fn embedding_name(&self) -> &'static str {
        self.checkpoint.embedding_name()
    }

    fn stored_name<'a>(&self, name: &'a str) -> &'a str {
        match name {
            EMBEDDING => self.embedding_name(),
            other => other,
        }
    }
}

impl TensorRows<'_> {
    /// The next row as numbers; `None` after the last one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_row(&mut self) -> Result<Option<&[f32]>, LoadError> {
        if self.rows.is_at_end() {
            return Ok(None);
        }
        self.rows.next_row(&mut self.row)?;
        Ok(Some(&self.row))
    }

    /// The next row as it is stored, for tensors that have a [`Tensors::stored_as`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_stored(&mut self) -> Result<Option<&[u8]>, LoadError> {
        if self.rows.is_at_end() {
            Ok(None)
        } else {
            self.rows.next_bytes().map(Some)
        }
    }
}
