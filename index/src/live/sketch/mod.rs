//! Sketches: one bit for each dimension of a vector, from which its score is estimated with an error
//! bound. A scan of sketches reads an eighth of what a scan of int8 codes reads, and leaves few vectors
//! whose codes must be compared. Where a query has near vectors, the first quarter of the bits rules out most
//! of the others.
//!
//! The formulas are those of RaBitQ (J. Gao and C. Long, "RaBitQ: Quantizing High-Dimensional Vectors
//! with a Theoretical Error Bound for Approximate Nearest Neighbor Search", SIGMOD 2024):
//!
//! - [`rotation`] rotates all vectors at random, so that the error of a sketch has a random direction.
//! - [`estimate`] makes sketches and estimates scores from them.
//! - [`bit_product`] is the inner loop: the product of bits with small whole numbers.
//! - [`list`] keeps sketches as the inner loop reads them.

mod bit_product;
mod estimate;
mod list;
mod rotation;

pub(crate) use estimate::{CentredQuery, RoundedQuery, Sketch};
pub(crate) use list::SketchList;
pub(crate) use rotation::Rotation;
