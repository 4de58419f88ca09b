//! Packs matrices from numbers, or from blocks in ggml's formats.

use bytemuck::Pod;
use half::f16;

use super::{Matrix, PackedWeights, q8_place};
use crate::model::WeightType;
use crate::model::cpu::aligned::AlignedVec;
use crate::model::cpu::kernels::{BLOCK, LANES, Weight};
use crate::model::cpu::q4::{self, Q4Panels, StoredBlock};

/// Bytes of a stored block of `Q8_0`: a scale in 16 bits and the levels.
const STORED_BLOCK: usize = 2 + BLOCK;
/// Adds [`LEVEL_OFFSET`](crate::model::cpu::kernels::LEVEL_OFFSET) to the bits of a signed level.
const SIGN: u8 = 0x80;

impl Matrix {
    /// Packs a matrix whose rows `read` writes one after another, `columns` numbers each. Quantised types
    /// need whole blocks of 32 columns; a matrix without them is kept in bf16. 4-bit matrices are packed
    /// from blocks ([`Matrix::pack_q4_blocks`]). If a 4-bit type is asked for here, the matrix gets 8
    /// bits, because it must not or cannot have 4.
    ///
    /// # Errors
    /// The errors of `read`.
    pub(crate) fn pack<E>(
        (rows, columns): (usize, usize),
        weight_type: WeightType,
        read: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let shape = (rows, columns);
        let weights = match weight_type {
            WeightType::F32 => PackedWeights::F32(pack_floats(shape, read)?),
            WeightType::F16 => PackedWeights::F16(pack_floats(shape, read)?),
            WeightType::Bf16 => PackedWeights::Bf16(pack_floats(shape, read)?),
            WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4_K => {
                if columns.is_multiple_of(BLOCK) {
                    pack_q8(shape, read)?
                } else {
                    PackedWeights::Bf16(pack_floats(shape, read)?)
                }
            }
        };
        Ok(Self {
            rows,
            columns,
            weights,
            bias: None,
        })
    }

    /// Packs a matrix whose rows `read` writes one after another as ggml's 4-bit blocks. The columns
    /// must be whole blocks. The numbers stay exactly the same.
    ///
    /// # Errors
    /// The errors of `read`.
    pub(in crate::model::cpu) fn pack_q4_blocks<B: StoredBlock, E>(
        (rows, columns): (usize, usize),
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E>
    where
        PackedWeights: From<Q4Panels<B>>,
    {
        assert!(q4::fits::<B>(columns));
        let mut packed = Q4Panels::<B>::zeros(rows, columns);
        let mut blocks = vec![0; q4::row_bytes::<B>(columns)];
        for at in 0..rows {
            read(&mut blocks)?;
            packed.set_row(at, &blocks);
        }
        Ok(Self {
            rows,
            columns,
            weights: packed.into(),
            bias: None,
        })
    }

    /// Packs a matrix that is stored in ggml's blocks of `Q8_0`, which `read` writes row by row, as it is.
    ///
    /// # Errors
    /// The errors of `read`.
    pub(crate) fn pack_q8_blocks<E>(
        (rows, columns): (usize, usize),
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (panels, blocks) = (rows.div_ceil(LANES), columns / BLOCK);
        let mut weights = AlignedVec::zeros(panels * columns * LANES);
        let mut scales = AlignedVec::zeros(panels * blocks * LANES);
        let mut row = vec![0; blocks * STORED_BLOCK];
        for at in 0..rows {
            read(&mut row)?;
            let (first, lane) = (at / LANES * blocks, at % LANES);
            for (block, stored) in (first..).zip(row.as_chunks::<STORED_BLOCK>().0) {
                let [low, high, levels @ ..] = stored;
                scales[block * LANES + lane] = f16::from_le_bytes([*low, *high]);
                for (k, level) in levels.iter().enumerate() {
                    weights[block * BLOCK * LANES + q8_place(k, lane)] = level ^ SIGN;
                }
            }
        }
        Ok(Self {
            rows,
            columns,
            weights: PackedWeights::Q8 { weights, scales },
            bias: None,
        })
    }
}

fn pack_floats<W: Weight + Pod, E>(
    (rows, columns): (usize, usize),
    mut read: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<AlignedVec<W>, E> {
    let mut weights = AlignedVec::zeros(rows.div_ceil(LANES) * columns * LANES);
    let mut row = vec![0f32; columns];
    for at in 0..rows {
        read(at, &mut row)?;
        let start = at / LANES * columns * LANES + at % LANES;
        let places = weights[start..].iter_mut().step_by(LANES);
        for (place, value) in places.zip(&row) {
            *place = W::narrow(*value);
        }
    }
    Ok(weights)
}

fn pack_q8<E>(
    (rows, columns): (usize, usize),
    mut read: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<PackedWeights, E> {
    let len = rows.div_ceil(LANES) * columns * LANES;
    let (mut weights, mut scales) = (AlignedVec::zeros(len), AlignedVec::zeros(len / BLOCK));
    let mut row = vec![0f32; columns];
    for at in 0..rows {
        read(at, &mut row)?;
        let (start, lane) = (at / LANES * columns * LANES, at % LANES);
        for (block, values) in row.chunks_exact(BLOCK).enumerate() {
            let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
            // The values are quantised with the scale as it is stored, so that they compensate its
            // rounding.
            let scale = f16::from_f32(largest / 127.0);
            scales[start / BLOCK + block * LANES + lane] = scale;
            let scale = scale.to_f32();
            for (k, value) in values.iter().enumerate() {
                let level = if scale > 0.0 { value / scale } else { 0.0 };
                let level = level.round_ties_even().clamp(-127.0, 127.0);
                weights[start + q8_place(block * BLOCK + k, lane)] = level as i8 as u8 ^ SIGN;
            }
        }
    }
    Ok(PackedWeights::Q8 { weights, scales })
}
