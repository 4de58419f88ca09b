//! Products for a caller that has threads of its own, such as a trainer.

use super::matrix::Matrix;
use super::quantised::QuantisedActivations;
use crate::model::WeightType;

/// A matrix `(rows, columns)` in `Q8_0`, with the products of a served model that has such weights.
/// Activations are rounded to 8 bits as well. If `columns` is no multiple of 32, it is kept in bf16.
#[derive(Debug)]
pub struct Q8Matrix(Matrix);

impl Q8Matrix {
    /// Packs a matrix whose rows `read` writes one after another, `columns` numbers each.
    pub fn new((rows, columns): (usize, usize), mut read: impl FnMut(usize, &mut [f32])) -> Self {
        let read = |at: usize, row: &mut [f32]| {
            read(at, row);
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(matrix) = Matrix::pack((rows, columns), WeightType::Q8_0, read);
        Self(matrix)
    }

    /// Numbers of a product for each row of activations.
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// Computes `out = xs · selfᵀ` on the calling thread; `xs` is `(batch, columns)`, `out` is
    /// `(batch, rows)`.
    pub fn product(&self, xs: &[f32], out: &mut [f32]) {
        self.0
            .product_on_this_thread(xs, out, &mut QuantisedActivations::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn a_product_on_one_thread_has_the_bits_of_one_on_all() {
        let mut rng = StdRng::seed_from_u64(4);
        // The batch is large enough to be distributed to threads.
        for (rows, columns, batch) in [(1536, 576, 300), (50, 33, 5)] {
            let mut draw = |count: usize| -> Vec<f32> {
                (0..count).map(|_| rng.random::<f32>() - 0.5).collect()
            };
            let (weights, xs) = (draw(rows * columns), draw(batch * columns));
            let matrix = Q8Matrix::new((rows, columns), |at, row| {
                row.copy_from_slice(&weights[at * columns..][..columns]);
            });
            assert_eq!(matrix.rows(), rows);
            let mut alone = vec![0.0; batch * rows];
            matrix.product(&xs, &mut alone);
            let mut together = vec![0.0; batch * rows];
            let mut scratch = QuantisedActivations::default();
            matrix.0.product(&xs, &mut together, &mut scratch);
            assert!(alone == together);
        }
    }
}
