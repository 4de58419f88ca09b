//! Operations whose gradients candle would compute with dozens of small tensors. Here each is one
//! forward and one backward pass over f32 on the CPU. Tests compare them with candle's own.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor,
};

/// `x` scaled to unit root mean square in its last dimension, times `weight` (Zhang & Sennrich 2019).
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, RmsNorm { epsilon })
}

/// `silu(gate) · up` (Shazeer 2020).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// Causal attention with rotary positions over a ragged batch, in which passage blocks see only themselves. `q`, `k`, `v` are (tokens, heads · head_dim).
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &Arc<AttentionShape>,
) -> Result<Tensor> {
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, Attention(shape.clone()))
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (from, to) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("expected a contiguous tensor".into()))?;
    Ok(&storage.as_slice::<f32>()?[from..to])
}

/// Runs `f` on the elements of a contiguous f32 tensor on the CPU.
pub fn with_elements<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => Err(Error::Msg("expected a tensor on the CPU".into())),
    }
}

struct RmsNorm {
    epsilon: f32,
}

impl RmsNorm {
    fn scale(&self, row: &[f32]) -> f32 {
        (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + self.epsilon)
            .sqrt()
            .recip()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut y = vec![0.0; x.len()];
        for (x, y) in x
            .chunks_exact(weight.len())
            .zip(y.chunks_exact_mut(weight.len()))
        {
            let scale = self.scale(x);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let size = weight.elem_count();
        let (mut dx, mut dw) = (vec![0.0; x.elem_count()], vec![0.0; size]);
        with_elements(x, |x| {
            with_elements(weight, |weight| {
                with_elements(grad, |grad| {
                    for ((x, g), dx) in x
                        .chunks_exact(size)
                        .zip(grad.chunks_exact(size))
                        .zip(dx.chunks_exact_mut(size))
                    {
                        let scale = self.scale(x);
                        let along: f32 = x
                            .iter()
                            .zip(g)
                            .zip(weight)
                            .map(|((x, g), w)| x * g * w)
                            .sum();
                        let pull = along * scale * scale * scale / size as f32;
                        for i in 0..size {
                            dx[i] = scale * weight[i] * g[i] - pull * x[i];
                            dw[i] += g[i] * x[i] * scale;
                        }
                    }
                })
            })
        })???;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, size, x.device())?),
        ))
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = slice(s1, l1)?
            .iter()
            .zip(slice(s2, l2)?)
            .map(|(g, u)| g * sigmoid(*g) * u)
            .collect();
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let count = gate.elem_count();
        let (mut d_gate, mut d_up) = (vec![0.0; count], vec![0.0; count]);
        with_elements(gate, |gate| {
            with_elements(up, |up| {
                with_elements(grad, |grad| {
                    for i in 0..count {
                        let (g, s) = (gate[i], sigmoid(gate[i]));
                        d_gate[i] = grad[i] * up[i] * s * (1.0 + g * (1.0 - s));
                        d_up[i] = grad[i] * g * s;
                    }
                })
            })
        })???;
        Ok((
            Some(Tensor::from_vec(d_gate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(d_up, gate.shape(), gate.device())?),
        ))
    }
}

/// e^x by range reduction and a polynomial of degree 6 (Cephes). Its relative error is below 2e-7,
/// and compilers can vectorise it. A conversion to integers they cannot, since it checks its range.
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sizes that attention needs besides its inputs.
#[derive(Debug)]
pub struct AttentionShape {
    /// Where each sequence ends
    pub ends: Vec<usize>,
    /// The passage blocks within sequences, in order. Tokens of a block see no token before it
    pub blocks: Vec<Range<usize>>,
    /// Heads
    pub heads: usize,
    /// Width of a head
    pub head_dim: usize,
    /// Base of the rotary angles
    pub rope_theta: f32,
}

impl AttentionShape {
    /// Each sequence's tokens.
    fn sequences(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }

    /// The first token that each token of a sequence sees, counted from the sequence's start.
    fn first_seen(&self, tokens: &Range<usize>) -> Vec<usize> {
        let mut first = vec![0; tokens.len()];
        let from = self
            .blocks
            .partition_point(|block| block.start < tokens.start);
        let within = self.blocks[from..]
            .iter()
            .take_while(|block| block.end <= tokens.end);
        for block in within {
            let start = block.start - tokens.start;
            first[start..block.end - tokens.start].fill(start);
        }
        first
    }

    /// Cosines and sines of the rotary angles, (positions, head_dim / 2) each.
    fn rotations(&self) -> Vec<(f32, f32)> {
        let longest = self
            .sequences()
            .map(|tokens| tokens.len())
            .max()
            .unwrap_or(0);
        let half = self.head_dim / 2;
        let angle =
            |i: usize| (i / half) as f32 * self.rope_theta.powf(-((i % half) as f32) / half as f32);
        (0..longest * half)
            .map(|i| {
                let (sin, cos) = angle(i).sin_cos();
                (cos, sin)
            })
            .collect()
    }
}

struct Attention(Arc<AttentionShape>);

/// Rows of scores that are computed at once. With small blocks most columns right of the diagonal
/// are skipped.
const ROWS: usize = 64;

/// One head of one sequence: its queries, keys and values, rotated, (tokens, head_dim) each.
struct Head {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Attention {
    /// Copies a head of a sequence out of (tokens, heads · head_dim).
    fn gather(&self, from: &[f32], tokens: &Range<usize>, head: usize) -> Vec<f32> {
        let (dim, width) = (self.0.head_dim, self.0.heads * self.0.head_dim);
        tokens
            .clone()
            .flat_map(|t| &from[t * width + head * dim..][..dim])
            .copied()
            .collect()
    }

    /// Copies a head of a sequence back.
    fn scatter(&self, to: &mut [f32], tokens: &Range<usize>, head: usize, rows: &[f32]) {
        let (dim, width) = (self.0.head_dim, self.0.heads * self.0.head_dim);
        for (t, row) in tokens.clone().zip(rows.chunks_exact(dim)) {
            to[t * width + head * dim..][..dim].copy_from_slice(row);
        }
    }

    /// Rotates the pairs (i, i + head_dim / 2) of every row by its position (Su et al. 2021), backwards for gradients.
    fn rotate(&self, rows: &mut [f32], rotations: &[(f32, f32)], backwards: bool) {
        let half = self.0.head_dim / 2;
        for (row, rotations) in rows
            .chunks_exact_mut(2 * half)
            .zip(rotations.chunks_exact(half))
        {
            let (low, high) = row.split_at_mut(half);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(rotations) {
                let sin = if backwards { -sin } else { *sin };
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    fn head(
        &self,
        [q, k, v]: [&[f32]; 3],
        tokens: &Range<usize>,
        head: usize,
        rotations: &[(f32, f32)],
    ) -> Head {
        let (mut q, mut k) = (self.gather(q, tokens, head), self.gather(k, tokens, head));
        self.rotate(&mut q, rotations, false);
        self.rotate(&mut k, rotations, false);
        Head {
            q,
            k,
            v: self.gather(v, tokens, head),
        }
    }

    /// Attention weights of rows `from..to` over the tokens `0..to`; `first_seen` holds the first token that
    /// each row sees.
    fn weights(
        &self,
        head: &Head,
        first_seen: &[usize],
        (from, to): (usize, usize),
        out: &mut Vec<f32>,
    ) {
        let dim = self.0.head_dim;
        out.resize((to - from) * to, 0.0);
        product(
            &head.q[from * dim..to * dim],
            &head.k[..to * dim],
            out,
            (to - from, dim, to),
            TransposedFactor::Abt,
            1.0 / (dim as f32).sqrt(),
            false,
        );
        for (row, weights) in out.chunks_exact_mut(to).enumerate() {
            let (seen, later) = weights.split_at_mut(from + row + 1);
            let (before, seen) = seen.split_at_mut(first_seen[from + row]);
            let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            seen.iter_mut().for_each(|w| *w = exp(*w - max));
            let total: f32 = seen.iter().sum();
            seen.iter_mut().for_each(|w| *w /= total);
            before.fill(0.0);
            later.fill(0.0);
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "ragged-causal-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?];
        let (dim, rotations) = (self.0.head_dim, self.0.rotations());
        let mut out = vec![0.0; inputs[0].len()];
        let mut weights = Vec::new();
        for tokens in self.0.sequences() {
            let first_seen = self.0.first_seen(&tokens);
            for index in 0..self.0.heads {
                let head = self.head(inputs, &tokens, index, &rotations);
                let mut rows = vec![0.0; head.q.len()];
                for from in (0..tokens.len()).step_by(ROWS) {
                    let to = (from + ROWS).min(tokens.len());
                    self.weights(&head, &first_seen, (from, to), &mut weights);
                    product(
                        &weights,
                        &head.v[..to * dim],
                        &mut rows[from * dim..to * dim],
                        (to - from, to, dim),
                        TransposedFactor::Ab,
                        1.0,
                        false,
                    );
                }
                self.scatter(&mut out, &tokens, index, &rows);
            }
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dim, rotations) = (self.0.head_dim, self.0.rotations());
        let scale = 1.0 / (dim as f32).sqrt();
        let [mut dq, mut dk, mut dv] = std::array::from_fn(|_| vec![0.0; q.elem_count()]);
        with_elements(q, |q| {
            with_elements(k, |k| {
                with_elements(v, |v| {
                    with_elements(grad, |grad| {
                        let (mut weights, mut d_weights) = (Vec::new(), Vec::new());
                        for tokens in self.0.sequences() {
                            let first_seen = self.0.first_seen(&tokens);
                            for index in 0..self.0.heads {
                                let head = self.head([q, k, v], &tokens, index, &rotations);
                                let d_rows = self.gather(grad, &tokens, index);
                                let [mut head_dq, mut head_dk, mut head_dv] =
                                    std::array::from_fn(|_| vec![0.0; d_rows.len()]);
                                for from in (0..tokens.len()).step_by(ROWS) {
                                    let to = (from + ROWS).min(tokens.len());
                                    let rows = to - from;
                                    self.weights(&head, &first_seen, (from, to), &mut weights);
                                    let d_out = &d_rows[from * dim..to * dim];
                                    d_weights.resize(rows * to, 0.0);
                                    product(
                                        d_out,
                                        &head.v[..to * dim],
                                        &mut d_weights,
                                        (rows, dim, to),
                                        TransposedFactor::Abt,
                                        1.0,
                                        false,
                                    );
                                    // The softmax's gradient: w · (dw - Σ w · dw), row by row.
                                    for (w, dw) in
                                        weights.chunks_exact(to).zip(d_weights.chunks_exact_mut(to))
                                    {
                                        let along: f32 =
                                            w.iter().zip(&*dw).map(|(w, dw)| w * dw).sum();
                                        dw.iter_mut()
                                            .zip(w)
                                            .for_each(|(dw, w)| *dw = w * (*dw - along));
                                    }
                                    product(
                                        &d_weights,
                                        &head.k[..to * dim],
                                        &mut head_dq[from * dim..to * dim],
                                        (rows, to, dim),
                                        TransposedFactor::Ab,
                                        scale,
                                        false,
                                    );
                                    product(
                                        &d_weights,
                                        &head.q[from * dim..to * dim],
                                        &mut head_dk[..to * dim],
                                        (to, rows, dim),
                                        TransposedFactor::Atb,
                                        scale,
                                        true,
                                    );
                                    product(
                                        &weights,
                                        d_out,
                                        &mut head_dv[..to * dim],
                                        (to, rows, dim),
                                        TransposedFactor::Atb,
                                        1.0,
                                        true,
                                    );
                                }
                                self.rotate(&mut head_dq, &rotations, true);
                                self.rotate(&mut head_dk, &rotations, true);
                                for (to, rows) in
                                    [(&mut dq, head_dq), (&mut dk, head_dk), (&mut dv, head_dv)]
                                {
                                    self.scatter(to, &tokens, index, &rows);
                                }
                            }
                        }
                    })
                })
            })
        })????;
        let tensor = |values| Tensor::from_vec(values, q.shape(), q.device());
        Ok((Some(tensor(dq)?), Some(tensor(dk)?), Some(tensor(dv)?)))
    }
}

/// Which factor of a matrix product is stored transposed.
#[derive(Clone, Copy)]
pub(crate) enum TransposedFactor {
    Ab,
    Abt,
    Atb,
}

/// `out = scale · a b` (or with one factor transposed), added to `out` if `add`; sizes (rows, inner, columns), row-major.
pub(crate) fn product(
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
    form: TransposedFactor,
    scale: f32,
    add: bool,
) {
    assert!(
        a.len() >= m * k && b.len() >= k * n && out.len() >= m * n,
        "matrix product out of bounds"
    );
    let (a_row, a_column) = if matches!(form, TransposedFactor::Atb) {
        (1, m)
    } else {
        (k, 1)
    };
    let (b_row, b_column) = if matches!(form, TransposedFactor::Abt) {
        (1, k)
    } else {
        (n, 1)
    };
    // SAFETY: the assertion above bounds every element that these strides reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.as_ptr(),
            a_column as isize,
            a_row as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn var(rng: &mut StdRng, rows: usize, columns: usize) -> Var {
        let values: Vec<f32> = (0..rows * columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        Var::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Asserts that values and gradients of `ours` and `plain` agree for random weights of the
    /// output.
    fn assert_same(
        inputs: &[Var],
        ours: impl Fn() -> Result<Tensor>,
        plain: impl Fn() -> Result<Tensor>,
    ) {
        let (ours, plain) = (ours().unwrap(), plain().unwrap());
        let mut rng = StdRng::seed_from_u64(99);
        let weights = var(&mut rng, ours.dim(0).unwrap(), ours.dim(1).unwrap());
        let gradients = |y: &Tensor| {
            (y * weights.as_tensor())
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
        };
        let (of_ours, of_plain) = (gradients(&ours), gradients(&plain));
        let apart = |a: &Tensor, b: &Tensor| {
            (a - b)
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        assert!(
            apart(&ours, &plain) < 1e-5,
            "values differ by {}",
            apart(&ours, &plain)
        );
        for (index, input) in inputs.iter().enumerate() {
            let difference = apart(of_ours.get(input).unwrap(), of_plain.get(input).unwrap());
            assert!(
                difference < 1e-4,
                "gradient {index} differs by {difference}"
            );
        }
    }

    #[test]
    fn rms_norm_is_what_candle_makes_of_its_definition() {
        let mut rng = StdRng::seed_from_u64(1);
        let (x, weight) = (var(&mut rng, 5, 8), var(&mut rng, 1, 8));
        let weight = Var::from_tensor(&weight.flatten_all().unwrap()).unwrap();
        assert_same(
            &[x.clone(), weight.clone()],
            || rms_norm(&x, &weight, 1e-6),
            || {
                x.broadcast_div(&(x.sqr()?.mean_keepdim(1)? + 1e-6)?.sqrt()?)?
                    .broadcast_mul(&weight)
            },
        );
    }

    #[test]
    fn swiglu_is_what_candle_makes_of_its_definition() {
        let mut rng = StdRng::seed_from_u64(2);
        let (gate, up) = (var(&mut rng, 7, 6), var(&mut rng, 7, 6));
        assert_same(
            &[gate.clone(), up.clone()],
            || swiglu(&gate, &up),
            || gate.silu()? * up.as_tensor(),
        );
    }

    /// Attention computed directly for each sequence and head.
    fn plain_attention(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: &AttentionShape,
    ) -> Result<Tensor> {
        let (dim, half) = (shape.head_dim, shape.head_dim / 2);
        let mut sequences = Vec::new();
        for tokens in shape.sequences() {
            let (start, len) = (tokens.start, tokens.len());
            let angles: Vec<f32> = (0..len * half)
                .map(|i| {
                    (i / half) as f32 * shape.rope_theta.powf(-((i % half) as f32) / half as f32)
                })
                .collect();
            let angles = Tensor::from_vec(angles, (len, half), &Device::Cpu)?;
            let (cos, sin) = (angles.cos()?, angles.sin()?);
            let rotate = |x: Tensor| -> Result<Tensor> {
                let (a, b) = (x.narrow(1, 0, half)?, x.narrow(1, half, half)?);
                Tensor::cat(
                    &[
                        ((&a * &cos)? - (&b * &sin)?)?,
                        ((&b * &cos)? + (&a * &sin)?)?,
                    ],
                    1,
                )
            };
            let block_of = |token: usize| {
                let within = |block: &&Range<usize>| block.contains(&(start + token));
                shape.blocks.iter().find(within)
            };
            let hidden: Vec<f32> = (0..len * len)
                .map(|i| {
                    let (row, column) = (i / len, i % len);
                    let own_block = block_of(row).is_none_or(|own| own.contains(&(start + column)));
                    if column <= row && own_block {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                })
                .collect();
            let hidden = Tensor::from_vec(hidden, (len, len), &Device::Cpu)?;
            let mut heads = Vec::new();
            for head in 0..shape.heads {
                let part = |x: &Tensor| x.narrow(0, start, len)?.narrow(1, head * dim, dim);
                let (q, k, v) = (rotate(part(q)?)?, rotate(part(k)?)?, part(v)?.contiguous()?);
                let scores = ((q.matmul(&k.t()?)? / (dim as f64).sqrt())? + &hidden)?;
                heads.push(candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?);
            }
            sequences.push(Tensor::cat(&heads, 1)?);
        }
        Tensor::cat(&sequences, 0)
    }

    #[test]
    fn ragged_attention_is_what_candle_makes_of_each_sequence() {
        let mut rng = StdRng::seed_from_u64(3);
        // The second sequence is longer than the rows that are computed at once, and its second passage block
        // lies on both sides of their end.
        let shape = Arc::new(AttentionShape {
            ends: vec![3, 3 + ROWS + 9, ROWS + 13],
            blocks: vec![8..15, ROWS - 4..ROWS + 7],
            heads: 2,
            head_dim: 4,
            rope_theta: 100.0,
        });
        let [q, k, v] = std::array::from_fn(|_| var(&mut rng, ROWS + 13, 8));
        assert_same(
            &[q.clone(), k.clone(), v.clone()],
            || attention(&q, &k, &v, &shape),
            || plain_attention(&q, &k, &v, &shape),
        );
    }

    #[test]
    fn exp_is_within_two_in_ten_million() {
        for i in -8000..8000 {
            let x = i as f32 / 100.0;
            assert!(
                (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs() < 2e-6,
                "e^{x}"
            );
        }
    }
}
