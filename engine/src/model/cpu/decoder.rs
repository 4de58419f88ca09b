//! Embedding, layers, final norm and head over a ragged batch.

use std::sync::{Mutex, PoisonError};

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::attention::{self, Query, attend};
use super::disjoint::Disjoint;
use super::kernels::Lanes;
use super::kv_blocks::KvBlocks;
use super::matrix::Matrix;
use super::ops::{rms_norm, rms_norm_in_place, rotate, swiglu};
use super::q4_k;
use super::quantised::Quantised;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::model::WeightType;
use crate::model::checkpoint::Checkpoint;
use crate::model::rope::frequencies;
use crate::model::rows::Stacked;
use crate::model::weights::HEAD;

/// Rows of activations that one thread takes at a time between the products.
const ROWS: usize = 16;
/// Query rows of one sequence and head that one thread takes at a time.
const QUERIES: usize = 64;
/// Numbers below which rows are not shared out among threads.
const WORTH_A_THREAD: usize = 1 << 16;

/// One sequence's part of a batch.
pub(crate) struct CpuSpan<'a> {
    /// The new tokens.
    pub(crate) ids: &'a [u32],
    /// Its blocks, with room for them.
    pub(crate) kv: &'a mut KvBlocks,
    /// Positions held before.
    pub(crate) past: usize,
}

/// The packed weights.
pub(crate) struct CpuDecoder {
    config: ModelConfig,
    /// None where the head is the embedding, too.
    embedding: Option<Matrix>,
    head: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// Angle per position of each pair.
    frequencies: Vec<f32>,
    /// Kept from one forward to the next, so that a step allocates nothing.
    buffers: Mutex<Vec<Buffers>>,
}

struct Layer {
    attention_norm: Vec<f32>,
    /// Query, key and value projections, one below the other.
    qkv: Matrix,
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    output: Matrix,
    mlp_norm: Vec<f32>,
    /// Gate and up projections, one below the other.
    gate_up: Matrix,
    down: Matrix,
}

#[derive(Default)]
struct Buffers {
    states: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    fed: Vec<f32>,
    angles: Vec<(f32, f32)>,
    logits: Vec<f32>,
    quantised: Quantised,
    attention: attention::Scratch,
}

impl CpuDecoder {
    /// Reads and packs the weights, one panel's rows at a time.
    ///
    /// # Errors
    /// A tensor is missing, of another shape or cannot be read.
    pub(crate) fn load(
        config: &ModelConfig,
        weights: &Checkpoint,
        weight_type: Option<WeightType>,
    ) -> Result<Self, LoadError> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let embedding = weights.embedding_name();
        let head = if config.tie_word_embeddings {
            embedding
        } else {
            HEAD
        };
        let layers = (0..config.num_hidden_layers)
            .into_par_iter()
            .map(|layer| Layer::load(config, weights, weight_type, layer))
            .collect::<Result<_, _>>()?;
        // At 4 bits embedding and head lose more than their size is worth: they are kept at 8.
        let whole_type = match weight_type {
            Some(WeightType::Q4_K) => Some(WeightType::Q8_0),
            other => other,
        };
        let whole = |name: &str| pack(weights, whole_type, &[(name, vocab)], hidden);
        Ok(Self {
            embedding: if config.tie_word_embeddings {
                None
            } else {
                Some(whole(embedding)?)
            },
            head: whole(head)?,
            layers,
            norm: weights.vector("model.norm.weight", hidden)?,
            frequencies: frequencies(config),
            config: config.clone(),
            buffers: Mutex::default(),
        })
    }

    /// Forwards the new tokens of all spans and writes their keys and values. Gives the states after
    /// the final norm of some rows of the batch, and the logits of some.
    pub(crate) fn forward(
        &self,
        spans: &mut [CpuSpan<'_>],
        hidden_rows: &[u32],
        logits_rows: &[u32],
    ) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let pool = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = pool().pop().unwrap_or_default();
        self.embed(spans, &mut buffers);
        for (at, layer) in self.layers.iter().enumerate() {
            self.layer(at, layer, spans, &mut buffers);
        }
        let hidden = self.finish(&buffers.states, hidden_rows);
        let logits = self.finish(&buffers.states, logits_rows).concat();
        let vocab = self.head.rows();
        buffers.logits.resize(logits_rows.len() * vocab, 0.0);
        self.head
            .product(&logits, &mut buffers.logits, &mut buffers.quantised);
        let logits = buffers.logits.chunks_exact(vocab).map(<[f32]>::to_vec);
        let logits = logits.collect();
        pool().push(buffers);
        (hidden, logits)
    }

    /// Some rows of the states after the final norm.
    fn finish(&self, states: &[f32], rows: &[u32]) -> Vec<Vec<f32>> {
        let hidden = self.config.hidden_size;
        let finished = rows.iter().map(|row| {
            let mut finished = vec![0.0; hidden];
            let state = &states[*row as usize * hidden..][..hidden];
            rms_norm(state, &self.norm, self.eps(), &mut finished);
            finished
        });
        finished.collect()
    }

    fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn embed(&self, spans: &[CpuSpan<'_>], buffers: &mut Buffers) {
        let hidden = self.config.hidden_size;
        let tokens: usize = spans.iter().map(|span| span.ids.len()).sum();
        let table = self.embedding.as_ref().unwrap_or(&self.head);
        buffers.states.resize(tokens * hidden, 0.0);
        let ids = spans.iter().flat_map(|span| span.ids);
        for (id, row) in ids.zip(buffers.states.chunks_exact_mut(hidden)) {
            table.row(*id as usize, row);
        }
        buffers.angles.clear();
        let positions = spans
            .iter()
            .flat_map(|span| (span.past..).take(span.ids.len()));
        for position in positions {
            let angles = self.frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                (cos, sin)
            });
            buffers.angles.extend(angles);
        }
    }

    fn layer(&self, at: usize, layer: &Layer, spans: &mut [CpuSpan<'_>], buffers: &mut Buffers) {
        let (config, eps) = (&self.config, self.eps());
        let hidden = config.hidden_size;
        let tokens = buffers.states.len() / hidden;
        let Buffers {
            states,
            normed,
            qkv,
            attended,
            gate_up,
            fed,
            angles,
            quantised,
            attention,
            logits: _,
        } = buffers;

        normed.resize(tokens * hidden, 0.0);
        for_rows(states, hidden, normed, hidden, |state, normed| {
            rms_norm(state, &layer.attention_norm, eps, normed);
        });
        qkv.resize(tokens * layer.qkv.rows(), 0.0);
        layer.qkv.product(normed, qkv, quantised);
        self.place(layer, qkv, angles);
        self.write(at, spans, qkv);
        attended.resize(tokens * config.num_attention_heads * config.head_dim, 0.0);
        self.attend(at, spans, qkv, attended, attention);
        layer.output.product(attended, normed, quantised);
        add(states, normed);

        for_rows(states, hidden, normed, hidden, |state, normed| {
            rms_norm(state, &layer.mlp_norm, eps, normed);
        });
        gate_up.resize(tokens * layer.gate_up.rows(), 0.0);
        layer.gate_up.product(normed, gate_up, quantised);
        fed.resize(gate_up.len() / 2, 0.0);
        let inner = config.intermediate_size;
        for_rows(gate_up, 2 * inner, fed, inner, swiglu);
        layer.down.product(fed, normed, quantised);
        add(states, normed);
    }

    /// Norms queries and keys where the family does, turns them to their positions and scales queries.
    fn place(&self, layer: &Layer, qkv: &mut [f32], angles: &[(f32, f32)]) {
        let (head_dim, half) = (self.config.head_dim, self.config.head_dim / 2);
        let queries = self.config.num_attention_heads * head_dim;
        let keys = self.config.num_key_value_heads * head_dim;
        let scale = (head_dim as f32).powf(-0.5);
        let place = |(row, angles): (&mut [f32], &[(f32, f32)])| {
            let (query, rest) = row.split_at_mut(queries);
            for head in query.chunks_exact_mut(head_dim) {
                if let Some((norm, _)) = &layer.qk_norm {
                    rms_norm_in_place(head, norm, self.eps());
                }
                rotate(head, angles);
                head.iter_mut().for_each(|x| *x *= scale);
            }
            for head in rest[..keys].chunks_exact_mut(head_dim) {
                if let Some((_, norm)) = &layer.qk_norm {
                    rms_norm_in_place(head, norm, self.eps());
                }
                rotate(head, angles);
            }
        };
        let width = queries + 2 * keys;
        if qkv.len() < WORTH_A_THREAD {
            let rows = qkv.chunks_exact_mut(width);
            rows.zip(angles.chunks_exact(half)).for_each(place);
        } else {
            let rows = qkv.par_chunks_exact_mut(width).with_min_len(ROWS);
            rows.zip(angles.par_chunks_exact(half)).for_each(place);
        }
    }

    fn write(&self, layer: usize, spans: &mut [CpuSpan<'_>], qkv: &[f32]) {
        let head_dim = self.config.head_dim;
        let queries = self.config.num_attention_heads * head_dim;
        let keys = self.config.num_key_value_heads * head_dim;
        let mut rows = qkv.chunks_exact(queries + 2 * keys);
        for span in spans {
            for (position, row) in (span.past..).zip(rows.by_ref().take(span.ids.len())) {
                let (keys, values) = row[queries..].split_at(keys);
                let heads = keys
                    .chunks_exact(head_dim)
                    .zip(values.chunks_exact(head_dim));
                for (head, (key, value)) in heads.enumerate() {
                    span.kv.write(layer, head, position, key, value);
                }
            }
        }
    }

    fn attend(
        &self,
        layer: usize,
        spans: &[CpuSpan<'_>],
        qkv: &[f32],
        attended: &mut [f32],
        scratch: &mut attention::Scratch,
    ) {
        let config = &self.config;
        let (head_dim, heads) = (config.head_dim, config.num_attention_heads);
        let group = heads / config.num_key_value_heads;
        let row_len = (heads + 2 * config.num_key_value_heads) * head_dim;
        let window = config.window(layer).unwrap_or(usize::MAX);
        let attended = Disjoint::new(attended);
        // A piece of work: a span, its first row in the batch, a key head, some of its tokens.
        let piece_tokens = (QUERIES / group).max(1);
        let mut pieces = Vec::new();
        let mut first_row = 0;
        for span in spans {
            for kv_head in 0..config.num_key_value_heads {
                for first in (0..span.ids.len()).step_by(piece_tokens) {
                    let last = (first + piece_tokens).min(span.ids.len());
                    pieces.push((span, first_row, kv_head, first..last));
                }
            }
            first_row += span.ids.len();
        }
        let work = |scratch: &mut attention::Scratch, piece: &(&CpuSpan<'_>, usize, usize, _)| {
            let (span, first_row, kv_head, tokens): &(_, _, _, std::ops::Range<usize>) = piece;
            let places = tokens.clone().flat_map(|token| {
                (kv_head * group..(kv_head + 1) * group).map(move |head| (token, head))
            });
            let places: Vec<_> = places.collect();
            let queries = places.iter().map(|(token, head)| {
                let to = span.past + token + 1;
                Query {
                    query: &qkv[(first_row + token) * row_len + head * head_dim..][..head_dim],
                    from: to.saturating_sub(window),
                    to,
                }
            });
            let queries: Vec<_> = queries.collect();
            let write = |i: usize, sums: &[Lanes], total: f32| {
                let (token, head) = places[i];
                let start = ((first_row + token) * heads + head) * head_dim;
                // SAFETY: each head of each token is in one piece only.
                let out = unsafe { attended.slice(start, head_dim) };
                let scale = 1.0 / total;
                for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                    *out = sum * scale;
                }
            };
            attend(span.kv, (layer, *kv_head), &queries, scratch, write);
        };
        let seen: usize = spans
            .iter()
            .map(|span| span.ids.len() * (span.past + span.ids.len()))
            .sum();
        if seen * heads * head_dim < WORTH_A_THREAD {
            pieces.iter().for_each(|piece| work(scratch, piece));
        } else {
            let each = attention::Scratch::default;
            pieces
                .par_iter()
                .for_each_init(each, |scratch, piece| work(scratch, piece));
        }
    }
}

impl Layer {
    fn load(
        config: &ModelConfig,
        weights: &Checkpoint,
        weight_type: Option<WeightType>,
        layer: usize,
    ) -> Result<Self, LoadError> {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let projections = [("q", queries), ("k", keys), ("v", keys)];
        let named =
            projections.map(|(p, rows)| (name(&format!("self_attn.{p}_proj.weight")), rows));
        let stacked = named.each_ref().map(|(name, rows)| (name.as_str(), *rows));
        let mut qkv = pack(weights, weight_type, &stacked, hidden)?;
        if config.qkv_bias {
            let mut bias = Vec::new();
            for (p, rows) in projections {
                bias.extend(weights.vector(&name(&format!("self_attn.{p}_proj.bias")), rows)?);
            }
            qkv = qkv.with_bias(bias);
        }
        let mut output = pack(
            weights,
            weight_type,
            &[(&name("self_attn.o_proj.weight"), hidden)],
            queries,
        )?;
        if config.output_bias {
            output = output.with_bias(weights.vector(&name("self_attn.o_proj.bias"), hidden)?);
        }
        let head_norm = |which: &str| {
            let norm = name(&format!("self_attn.{which}_norm.weight"));
            weights.vector(&norm, config.head_dim)
        };
        let gate_up = [
            (&*name("mlp.gate_proj.weight"), inner),
            (&*name("mlp.up_proj.weight"), inner),
        ];
        let down = [(&*name("mlp.down_proj.weight"), hidden)];
        Ok(Self {
            attention_norm: weights.vector(&name("input_layernorm.weight"), hidden)?,
            qkv,
            qk_norm: match config.qk_norm {
                true => Some((head_norm("q")?, head_norm("k")?)),
                false => None,
            },
            output,
            mlp_norm: weights.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate_up: pack(weights, weight_type, &gate_up, hidden)?,
            down: pack(weights, weight_type, &down, inner)?,
        })
    }
}

/// Packs matrices of `columns` columns, one below the other.
fn pack(
    weights: &Checkpoint,
    weight_type: Option<WeightType>,
    stacked: &[(&str, usize)],
    columns: usize,
) -> Result<Matrix, LoadError> {
    let mut below = Stacked::open(weights, stacked, columns)?;
    let rows = stacked.iter().map(|(_, rows)| rows).sum();
    // Files of mixed types keep some matrices of a stack finer than others: none shall lose.
    let types = stacked.iter().map(|(name, _)| weights.weight_type(name));
    let stored = types.min().unwrap_or(WeightType::F32);
    let shape = (rows, columns);
    let stored_as = |element| {
        let mut names = stacked.iter();
        names.all(|(name, _)| weights.element(name) == Some(element))
    };
    match weight_type.unwrap_or(stored) {
        WeightType::Q8_0 if stored_as(GgmlDType::Q8_0) => Matrix::pack_q8_blocks(shape, |blocks| {
            blocks.copy_from_slice(below.rows().next_bytes()?);
            Ok(())
        }),
        WeightType::Q4_K if stored_as(GgmlDType::Q4K) => Matrix::pack_q4_blocks(shape, |blocks| {
            blocks.copy_from_slice(below.rows().next_bytes()?);
            Ok(())
        }),
        WeightType::Q4_K if q4_k::fits(columns) => {
            let mut row = vec![0.0; columns];
            Matrix::pack_q4_blocks(shape, |blocks| {
                below.rows().next_row(&mut row)?;
                q4_k::quantise(&row, blocks).map_err(|source| weights.not_taken_in(source))
            })
        }
        other => Matrix::pack(shape, other, |_, row| below.rows().next_row(row)),
    }
}

/// Calls `each` with every row of `from` and the row of `to` at the same place.
fn for_rows(
    from: &[f32],
    from_len: usize,
    to: &mut [f32],
    to_len: usize,
    each: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    if from.len() < WORTH_A_THREAD {
        let rows = from.chunks_exact(from_len);
        rows.zip(to.chunks_exact_mut(to_len))
            .for_each(|(from, to)| each(from, to));
    } else {
        let rows = from.par_chunks_exact(from_len).with_min_len(ROWS);
        rows.zip(to.par_chunks_exact_mut(to_len))
            .for_each(|(from, to)| each(from, to));
    }
}

fn add(to: &mut [f32], what: &[f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}
