//! What the kernels of all instruction sets have in common: panels of weights and rows of activations.

use half::{bf16, f16};

/// Rows of a panel. Within a panel the 16 rows' weights of one column are adjacent.
pub(in crate::model::cpu) const LANES: usize = 16;
/// 8-bit levels are stored so much larger, since `vpdpbusd` multiplies unsigned by signed numbers.
pub(in crate::model::cpu) const LEVEL_OFFSET: i32 = 128;
/// Columns that share a scale in a quantised row.
pub(in crate::model::cpu) const BLOCK: usize = 32;
/// The most rows of activations that one call takes.
pub(in crate::model::cpu) const MOST_ROWS: usize = 8;

/// One number for each row of a panel.
pub(in crate::model::cpu) type Lanes = [f32; LANES];

/// A number as it is stored.
pub(in crate::model::cpu) trait Number:
    Copy + Default + Send + Sync + 'static
{
    /// Exactly the same number.
    fn widen(self) -> f32;
    /// The nearest number of this type.
    fn narrow(value: f32) -> Self;
}

macro_rules! number {
    ($type:ty, $widen:expr, $narrow:expr) => {
        impl Number for $type {
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
            fn narrow(value: f32) -> Self {
                $narrow(value)
            }
        }
    };
}

number!(f32, |value| value, |value| value);
number!(f16, f16::to_f32, f16::from_f32);
number!(bf16, bf16::to_f32, bf16::from_f32);

/// A panel of 8-bit weights. For each block of 32 columns it holds 16 scales, and the weights in
/// groups of four columns: for each of the 16 rows four bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::model::cpu) struct Q8Panel<'a> {
    /// The level plus [`LEVEL_OFFSET`], 512 a block
    pub(in crate::model::cpu) weights: &'a [u8],
    /// 16 a block, one a row
    pub(in crate::model::cpu) scales: &'a [f16],
}

/// A row of activations in 8 bits, for 8-bit and 4-bit weights.
#[derive(Debug, Clone, Copy)]
pub(in crate::model::cpu) struct Q8Row<'a> {
    /// 32 a block
    pub(in crate::model::cpu) values: &'a [i8],
    /// One a block
    pub(in crate::model::cpu) scales: &'a [f32],
    /// For each block [`BlockSums`]
    pub(in crate::model::cpu) sums: &'a [BlockSums],
}

/// What the sum of a block's values is needed for.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::model::cpu) struct BlockSums {
    /// Minus [`LEVEL_OFFSET`] times the sum: added to a product with 8-bit weights as they are stored, it gives the
    /// product with their levels
    pub(in crate::model::cpu) correction: i32,
    /// The sum times the block's scale, by which the minimum of 4-bit weights is multiplied
    pub(in crate::model::cpu) scaled: f32,
}
