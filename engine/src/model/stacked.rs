//! Matrices of a checkpoint that become one.

use super::checkpoint::Checkpoint;
use super::rows::Rows;
use crate::error::LoadError;

/// Several matrices that are read as one: the rows of the first, then those of the second, and so
/// on.
pub(crate) struct StackedMatrices<'a> {
    matrices: Vec<Rows<'a>>,
    at: usize,
}

impl<'a> StackedMatrices<'a> {
    /// Opens one or more matrices of `columns` columns, given by name and number of rows.
    pub(crate) fn open(
        weights: &'a Checkpoint,
        stacked: &[(&str, usize)],
        columns: usize,
    ) -> Result<Self, LoadError> {
        let open = |(name, rows): &(&str, usize)| weights.matrix(name, *rows, columns);
        let matrices = stacked.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { matrices, at: 0 })
    }

    /// The matrix that holds the next row.
    pub(crate) fn rows(&mut self) -> &mut Rows<'a> {
        while self.at + 1 < self.matrices.len() && self.matrices[self.at].is_at_end() {
            self.at += 1;
        }
        &mut self.matrices[self.at]
    }
}
