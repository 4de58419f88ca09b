//! A linear layer: frozen, trained whole, or with a low-rank adapter.

use onegen_engine::Q8Matrix;

use super::parameters::{Gradients, ParameterId, Parameters};
use super::product::{Element, PackedMatrix, Rows};
use crate::ops::{TransposedFactor, product};

/// A matrix that is packed for both directions: for states in the forward pass, and for gradients
/// in the backward pass.
pub(super) struct TwoWayMatrix<E> {
    /// Outputs are the matrix's rows
    pub(super) forward: PackedMatrix<E>,
    /// Outputs are its columns
    pub(super) backward: PackedMatrix<E>,
}

impl<E: Element> TwoWayMatrix<E> {
    /// Packs a matrix of `rows` times `columns` numbers.
    pub(super) fn new(matrix: &[f32], rows: usize, columns: usize) -> Self {
        Self {
            forward: PackedMatrix::from_rows(matrix, rows, columns),
            backward: PackedMatrix::from_columns(matrix, columns, rows),
        }
    }
}

/// The matrix of a layer, for both directions.
enum Weight<E> {
    Float(TwoWayMatrix<E>),
    /// In 8 bits, and so is what it is multiplied with
    Q8 {
        forward: Q8Matrix,
        backward: Q8Matrix,
    },
}

impl<E: Element> Weight<E> {
    /// Multiplies rows of `inner` numbers; the products are added to `out` or replace it.
    fn forward(&self, x: &Rows<E>, out: &mut [f32], add: bool) {
        match self {
            Self::Float(matrix) => matrix.forward.product(x, out, add),
            Self::Q8 { forward, .. } => q8_product(forward, &x.to_f32(), out, add),
        }
    }

    /// Multiplies rows of as many numbers as the layer has outputs, given as both `dout` and `rows`.
    fn backward(&self, dout: &[f32], rows: &Rows<E>, dx: &mut [f32], add: bool) {
        match self {
            Self::Float(matrix) => matrix.backward.product(rows, dx, add),
            Self::Q8 { backward, .. } => q8_product(backward, dout, dx, add),
        }
    }
}

fn q8_product(matrix: &Q8Matrix, xs: &[f32], out: &mut [f32], add: bool) {
    if !add {
        return matrix.product(xs, out);
    }
    let mut sums = vec![0.0; out.len()];
    matrix.product(xs, &mut sums);
    out.iter_mut().zip(&sums).for_each(|(out, sum)| *out += sum);
}

/// The trained part of a layer.
enum LearntWeights<E> {
    Nothing,
    /// The matrix and its bias
    Whole {
        weight: ParameterId,
        bias: Option<ParameterId>,
    },
    /// `scale · B A` is added to the matrix (Hu et al. 2021)
    LowRank(LowRank<E>),
}

struct LowRank<E> {
    /// (rank, inner)
    a: ParameterId,
    /// (outputs, rank)
    b: ParameterId,
    scale: f32,
    rank: usize,
    /// The two matrices, packed again after each step. `B` includes the scale
    packed: Option<(TwoWayMatrix<E>, TwoWayMatrix<E>)>,
}

/// `y = x Wᵀ + bias`, and its trained part.
pub(super) struct Linear<E> {
    weight: Weight<E>,
    bias: Option<Vec<f32>>,
    outputs: usize,
    inner: usize,
    learnt: LearntWeights<E>,
}

/// The activations that a low-rank layer keeps between forward and backward: `x Aᵀ`, (tokens,
/// rank).
pub(super) type LowRankActivations<E> = Option<Rows<E>>;

impl<E: Element> Linear<E> {
    /// A layer that is not trained.
    pub(super) fn frozen(
        matrix: &[f32],
        bias: Option<Vec<f32>>,
        (outputs, inner): (usize, usize),
    ) -> Self {
        Self {
            weight: Weight::Float(TwoWayMatrix::new(matrix, outputs, inner)),
            bias,
            outputs,
            inner,
            learnt: LearntWeights::Nothing,
        }
    }

    /// Rounds a frozen matrix to 8 bits. From then on activations and gradients are rounded to 8 bits
    /// too before it multiplies them; what the adapter computes is not.
    pub(super) fn quantise(&mut self) {
        if let (Weight::Float(matrix), LearntWeights::LowRank(_) | LearntWeights::Nothing) =
            (&self.weight, &self.learnt)
        {
            self.weight = Weight::Q8 {
                forward: Q8Matrix::new((self.outputs, self.inner), |at, row| {
                    matrix.forward.copy_row(at, row);
                }),
                backward: Q8Matrix::new((self.inner, self.outputs), |at, row| {
                    matrix.backward.copy_row(at, row);
                }),
            };
        }
    }

    /// Makes the matrix and its bias trainable.
    pub(super) fn learn_whole(&mut self, weight: ParameterId, bias: Option<ParameterId>) {
        self.learnt = LearntWeights::Whole { weight, bias };
    }

    /// Adds a trainable adapter: `a` (rank, inner) and `b` (outputs, rank).
    pub(super) fn learn_low_rank(
        &mut self,
        a: ParameterId,
        b: ParameterId,
        rank: usize,
        scale: f32,
    ) {
        self.learnt = LearntWeights::LowRank(LowRank {
            a,
            b,
            scale,
            rank,
            packed: None,
        });
    }

    /// Copies the current values of the parameters.
    pub(super) fn refresh(&mut self, parameters: &Parameters) {
        match &mut self.learnt {
            LearntWeights::Nothing => {}
            LearntWeights::Whole { weight, bias } => {
                let matrix = &parameters.get(*weight).values;
                self.weight = Weight::Float(TwoWayMatrix::new(matrix, self.outputs, self.inner));
                self.bias = bias.map(|bias| parameters.get(bias).values.clone());
            }
            LearntWeights::LowRank(low) => {
                let b = parameters.get(low.b).values.iter();
                let b: Vec<f32> = b.map(|b| b * low.scale).collect();
                low.packed = Some((
                    TwoWayMatrix::new(&parameters.get(low.a).values, low.rank, self.inner),
                    TwoWayMatrix::new(&b, self.outputs, low.rank),
                ));
            }
        }
    }

    /// Numbers of the layer's output for each token.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Computes the layer's outputs for rows of `inner` numbers, and adds them to `out` or replaces
    /// it.
    pub(super) fn forward(&self, x: &Rows<E>, out: &mut [f32], add: bool) -> LowRankActivations<E> {
        self.weight.forward(x, out, add);
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(self.outputs) {
                row.iter_mut()
                    .zip(bias)
                    .for_each(|(out, bias)| *out += bias);
            }
        }
        let LearntWeights::LowRank(LowRank {
            rank,
            packed: Some((a, b)),
            ..
        }) = &self.learnt
        else {
            return None;
        };
        let mut narrow = vec![0.0; x.count() * rank];
        a.forward.product(x, &mut narrow, false);
        let narrow = Rows::new(&narrow, *rank);
        b.forward.product(&narrow, out, true);
        Some(narrow)
    }

    /// Adds the gradient of the layer's input to `dx` or replaces it, and adds those of its parameters
    /// to `gradients`. `x` returns the layer's input in f32 if it is needed, and `narrow` is what
    /// [`Self::forward`] returned.
    pub(super) fn backward(
        &self,
        dout: &[f32],
        x: &[f32],
        narrow: &LowRankActivations<E>,
        (dx, add): (&mut [f32], bool),
        gradients: &mut Gradients,
    ) {
        let rows = Rows::<E>::new(dout, self.outputs);
        let tokens = rows.count();
        self.weight.backward(dout, &rows, dx, add);
        match (&self.learnt, narrow) {
            (LearntWeights::Whole { weight, bias }, _) => {
                let sizes = (self.outputs, tokens, self.inner);
                product(
                    dout,
                    x,
                    gradients.get_mut(*weight),
                    sizes,
                    TransposedFactor::Atb,
                    1.0,
                    true,
                );
                if let Some(bias) = bias {
                    let sum = gradients.get_mut(*bias);
                    for row in dout.chunks_exact(self.outputs) {
                        sum.iter_mut().zip(row).for_each(|(sum, row)| *sum += row);
                    }
                }
            }
            (LearntWeights::LowRank(low), Some(narrow)) => {
                let Some((a, b)) = &low.packed else { return };
                let mut dnarrow = vec![0.0; tokens * low.rank];
                b.backward.product(&rows, &mut dnarrow, false);
                let (narrow, scale) = (narrow.to_f32(), low.scale);
                let sizes = (self.outputs, tokens, low.rank);
                let db = gradients.get_mut(low.b);
                product(dout, &narrow, db, sizes, TransposedFactor::Atb, scale, true);
                let sizes = (low.rank, tokens, self.inner);
                let da = gradients.get_mut(low.a);
                product(&dnarrow, x, da, sizes, TransposedFactor::Atb, 1.0, true);
                a.backward.product(&Rows::new(&dnarrow, low.rank), dx, true);
            }
            _ => {}
        }
    }
}
