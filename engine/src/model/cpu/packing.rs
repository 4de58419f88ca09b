//! Packs the matrices of a checkpoint.

use super::kernels::{Q4KBlock, Q40Block, Q41Block};
use super::matrix::{Matrix, PackedWeights};
use super::q4::{self, Q4Panels, StoredBlock};
use crate::error::LoadError;
use crate::model::WeightType;
use crate::model::checkpoint::Checkpoint;
use crate::model::ggml::GgmlType;
use crate::model::stacked::StackedMatrices;

/// Packs matrices of `columns` columns, one below the other.
pub(super) fn pack(
    weights: &Checkpoint,
    weight_type: Option<WeightType>,
    stacked: &[(&str, usize)],
    columns: usize,
) -> Result<Matrix, LoadError> {
    let mut below = StackedMatrices::open(weights, stacked, columns)?;
    let shape = (stacked.iter().map(|(_, rows)| rows).sum(), columns);
    match weight_type.unwrap_or_else(|| stored_type(weights, stacked)) {
        WeightType::Q8_0 if all_stored_as(GgmlType::Q8_0, weights, stacked) => {
            Matrix::pack_q8_blocks(shape, |blocks| {
                blocks.copy_from_slice(below.rows().next_bytes()?);
                Ok(())
            })
        }
        WeightType::Q4_0 if q4::fits::<Q40Block>(columns) => {
            pack_q4::<Q40Block>(weights, stacked, below, shape)
        }
        WeightType::Q4_1 if q4::fits::<Q41Block>(columns) => {
            pack_q4::<Q41Block>(weights, stacked, below, shape)
        }
        WeightType::Q4_K if q4::fits::<Q4KBlock>(columns) => {
            pack_q4::<Q4KBlock>(weights, stacked, below, shape)
        }
        other => Matrix::pack(shape, other, |_, row| below.rows().next_row(row)),
    }
}

/// The type that keeps the stored numbers. Files of mixed types store some matrices of a stack more finely
/// than others. No matrix may lose precision, so a 4-bit type is chosen only if all matrices have that type.
fn stored_type(weights: &Checkpoint, stacked: &[(&str, usize)]) -> WeightType {
    let types = || stacked.iter().map(|(name, _)| weights.weight_type(name));
    let finest = types().min().unwrap_or(WeightType::F32);
    if types().all(|one| one == finest) {
        finest
    } else {
        finest.min(WeightType::Q8_0)
    }
}

fn all_stored_as(element: GgmlType, weights: &Checkpoint, stacked: &[(&str, usize)]) -> bool {
    let mut names = stacked.iter();
    names.all(|(name, _)| weights.element(name) == Some(element))
}

/// Packs blocks of 4 bits, either as they are stored or quantised from numbers.
fn pack_q4<B: StoredBlock>(
    weights: &Checkpoint,
    stacked: &[(&str, usize)],
    mut below: StackedMatrices<'_>,
    (rows, columns): (usize, usize),
) -> Result<Matrix, LoadError>
where
    PackedWeights: From<Q4Panels<B>>,
{
    if all_stored_as(B::ELEMENT, weights, stacked) {
        return Matrix::pack_q4_blocks((rows, columns), |blocks| {
            blocks.copy_from_slice(below.rows().next_bytes()?);
            Ok(())
        });
    }
    let mut row = vec![0.0; columns];
    Matrix::pack_q4_blocks((rows, columns), |blocks| {
        below.rows().next_row(&mut row)?;
        q4::quantise::<B>(&row, blocks);
        Ok(())
    })
}
