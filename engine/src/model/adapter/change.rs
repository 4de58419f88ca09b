//! How an adapter changes one tensor.

use std::collections::HashMap;

use crate::error::LoadError;
use crate::model::stored::{StoredTensor, damaged};

/// A change of a matrix of the base. The numbers of the change are still in their file.
#[derive(Debug, Clone)]
pub(in crate::model) enum Change {
    /// `scale * up * down` is added (LoRA, arXiv 2106.09685).
    LowRank {
        /// `(rank, columns)`
        down: StoredTensor,
        /// `(rows, rank)`
        up: StoredTensor,
        rank: usize,
        scale: f32,
    },
    /// Some rows are replaced by others, or are appended to the base's rows.
    Rows {
        ids: Vec<usize>,
        /// `(ids, columns)`
        rows: StoredTensor,
    },
}

/// The same change with its numbers in memory, in f32.
pub(in crate::model) enum OpenChange<'a> {
    LowRank {
        down: Vec<f32>,
        up: Vec<f32>,
        rank: usize,
        scale: f32,
        /// A buffer for one row of the product.
        product: Vec<f32>,
    },
    Rows {
        rows: HashMap<usize, Vec<f32>>,
        stored: &'a StoredTensor,
    },
}

impl Change {
    /// Reads the numbers.
    ///
    /// # Errors
    /// They cannot be read.
    pub(in crate::model) fn open(&self) -> Result<OpenChange<'_>, LoadError> {
        Ok(match self {
            Self::LowRank {
                down,
                up,
                rank,
                scale,
            } => OpenChange::LowRank {
                down: down.numbers()?,
                up: up.numbers()?,
                rank: *rank,
                scale: *scale,
                product: Vec::new(),
            },
            Self::Rows { ids, rows } => {
                let numbers = rows.numbers()?;
                let columns = numbers.len() / ids.len().max(1);
                let each = numbers.chunks(columns.max(1)).map(<[f32]>::to_vec);
                OpenChange::Rows {
                    rows: ids.iter().copied().zip(each).collect(),
                    stored: rows,
                }
            }
        })
    }
}

impl OpenChange<'_> {
    /// Changes row `at` of the base, or writes a row that the base does not have.
    ///
    /// # Errors
    /// Neither the base nor the adapter has it.
    pub(in crate::model) fn apply(
        &mut self,
        at: usize,
        is_stored: bool,
        row: &mut [f32],
    ) -> Result<(), LoadError> {
        match self {
            Self::LowRank {
                down,
                up,
                rank,
                scale,
                product,
            } => {
                product.clear();
                product.resize(row.len(), 0.0);
                // The order of the sums is the same on every machine, so that merged weights are
                // equal bit for bit.
                let factors = &up[at * *rank..][..*rank];
                for (factor, down) in factors.iter().zip(down.chunks_exact(row.len())) {
                    for (sum, x) in product.iter_mut().zip(down) {
                        *sum += factor * x;
                    }
                }
                for (number, change) in row.iter_mut().zip(product) {
                    *number += *scale * *change;
                }
                Ok(())
            }
            Self::Rows { rows, stored } => match rows.get(&at) {
                Some(new) => {
                    row.copy_from_slice(new);
                    Ok(())
                }
                None if is_stored => Ok(()),
                None => Err(damaged(
                    &stored.path,
                    format!(
                        "neither the base's embedding nor the adapter has a row for the id {at}"
                    ),
                )),
            },
        }
    }
}
