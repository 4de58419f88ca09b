//! Embedding, layers, final norm and head over a ragged batch.

use std::cell::RefCell;
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::attention::{self, Query, attend};
use super::crew;
use super::disjoint::DisjointParts;
use super::kernels::Lanes;
use super::kv_blocks::{BlockShape, KvBlocks};
use super::layer::Layer;
use super::matrix::Matrix;
use super::ops::{rms_norm, rms_norm_in_place, rotate, swiglu};
use super::packing::pack;
use super::passages::{Angles, PassageSpan, angles, turn};
use super::quantised::QuantisedActivations;
use crate::config::ModelConfig;
use crate::error::{ForwardError, LoadError};
use crate::model::checkpoint::Checkpoint;
use crate::model::decoder::{Decoder, KvStore, RowVecs, WantedRows, downcast_mut};
use crate::model::rope::frequencies;
use crate::model::span::{Span, SpanCache};
use crate::model::weights::HEAD;
use crate::model::{KvType, WeightType};

/// Rows of activations that one thread takes at a time between the products.
const ROWS: usize = 16;
/// Tokens of one sequence and key head whose attention one thread takes at a time. However many queries share the
/// head, these are whole tiles of attention's.
const ATTENDED: usize = attention::MOST_QUERIES;
/// With fewer numbers than this, rows are not distributed to threads.
const WORTH_A_THREAD: usize = 1 << 16;

/// The packed weights.
pub(crate) struct CpuDecoder {
    config: ModelConfig,
    kv_type: KvType,
    /// `None` if the head is also the embedding.
    embedding: Option<Matrix>,
    head: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// Angle per position of each pair.
    frequencies: Vec<f32>,
    /// The buffers are kept for the next forward, so that a step allocates nothing.
    buffers: Mutex<Vec<Buffers>>,
}

#[derive(Default)]
struct Buffers {
    states: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    fed: Vec<f32>,
    angles: Angles,
    /// Whether a row's key is rotated to its position before it is written.
    turns_key: Vec<bool>,
    logits: Vec<f32>,
    quantised: QuantisedActivations,
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
        kv_type: KvType,
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
        // At 4 bits embedding and head would lose more quality than the saved memory is worth, so
        // they are kept at 8.
        let whole_type = match weight_type {
            Some(WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4_K) => Some(WeightType::Q8_0),
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
            kv_type,
            buffers: Mutex::default(),
        })
    }

    /// [`Decoder::forward`] with stores of the right kind.
    fn forward_blocks(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: &mut [&mut KvBlocks],
        wanted: &WantedRows,
    ) -> (RowVecs, RowVecs) {
        let pool = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = pool().pop().unwrap_or_default();
        self.embed(ids, spans, &mut buffers);
        let shape = self.block_shape();
        let passages = spans.iter();
        let passages = passages.filter_map(|span| PassageSpan::new(span, shape, &self.frequencies));
        let mut passages: Vec<_> = passages.collect();
        for (at, layer) in self.layers.iter().enumerate() {
            let batch = (spans, &mut *caches, &mut *passages);
            self.layer(at, layer, batch, &mut buffers);
        }
        let hidden = self.finish(&buffers.states, &wanted.hidden);
        let logits = self.finish(&buffers.states, &wanted.logits).concat();
        let vocab = self.head.rows();
        buffers.logits.resize(wanted.logits.len() * vocab, 0.0);
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

    fn block_shape(&self) -> BlockShape {
        BlockShape::new(&self.config, self.kv_type)
    }

    fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn embed(&self, ids: &[u32], spans: &[Span], buffers: &mut Buffers) {
        let hidden = self.config.hidden_size;
        let table = self.embedding.as_ref().unwrap_or(&self.head);
        buffers.states.resize(ids.len() * hidden, 0.0);
        for (id, row) in ids.iter().zip(buffers.states.chunks_exact_mut(hidden)) {
            table.row(*id as usize, row);
        }
        buffers.angles.clear();
        let positions = spans.iter().flat_map(|span| span.past..span.end());
        buffers.angles.extend(angles(&self.frequencies, positions));
        buffers.turns_key.clear();
        for span in spans {
            let is_text = span.of == SpanCache::Text;
            buffers.turns_key.extend(repeat_n(is_text, span.len));
        }
    }

    fn layer(
        &self,
        at: usize,
        layer: &Layer,
        (spans, caches, passages): (&[Span], &mut [&mut KvBlocks], &mut [PassageSpan]),
        buffers: &mut Buffers,
    ) {
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
            turns_key,
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
        self.place(layer, qkv, angles, turns_key);
        self.write(at, spans, caches, qkv);
        turn(at, passages, caches);
        attended.resize(tokens * config.num_attention_heads * config.head_dim, 0.0);
        self.attend(at, (spans, caches, passages), qkv, attended, attention);
        layer.output.product(attended, normed, quantised);
        for_rows(normed, hidden, states, hidden, add);

        for_rows(states, hidden, normed, hidden, |state, normed| {
            rms_norm(state, &layer.mlp_norm, eps, normed);
        });
        gate_up.resize(tokens * layer.gate_up.rows(), 0.0);
        layer.gate_up.product(normed, gate_up, quantised);
        fed.resize(gate_up.len() / 2, 0.0);
        let inner = config.intermediate_size;
        for_rows(gate_up, 2 * inner, fed, inner, swiglu);
        layer.down.product(fed, normed, quantised);
        for_rows(normed, hidden, states, hidden, add);
    }

    /// Normalises queries and keys in families that do so, rotates them to their positions and scales
    /// queries. Keys of passages are rotated later, when they are read.
    fn place(&self, layer: &Layer, qkv: &mut [f32], angles: &[(f32, f32)], turns_key: &[bool]) {
        let (head_dim, half) = (self.config.head_dim, self.config.head_dim / 2);
        let queries = self.config.num_attention_heads * head_dim;
        let keys = self.config.num_key_value_heads * head_dim;
        let scale = (head_dim as f32).powf(-0.5);
        let place = |row: &mut [f32], angles: &[(f32, f32)], turns_key: bool| {
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
                if turns_key {
                    rotate(head, angles);
                }
            }
        };
        let width = queries + 2 * keys;
        if qkv.len() < WORTH_A_THREAD {
            let rows = qkv.chunks_exact_mut(width);
            let rows = rows.zip(angles.chunks_exact(half));
            rows.zip(turns_key)
                .for_each(|((row, angles), turns)| place(row, angles, *turns));
        } else {
            let rows = qkv.chunks_mut(ROWS * width);
            let rows = rows.zip(angles.chunks(ROWS * half));
            let mut parts: Vec<_> = rows.zip(turns_key.chunks(ROWS)).collect();
            crew::each_mut(&mut parts, |((rows, angles), turns_key)| {
                let rows = rows.chunks_exact_mut(width);
                let rows = rows.zip(angles.chunks_exact(half));
                rows.zip(*turns_key)
                    .for_each(|((row, angles), turns)| place(row, angles, *turns));
            });
        }
    }

    fn write(&self, layer: usize, spans: &[Span], caches: &mut [&mut KvBlocks], qkv: &[f32]) {
        let head_dim = self.config.head_dim;
        let queries = self.config.num_attention_heads * head_dim;
        let keys = self.config.num_key_value_heads * head_dim;
        let mut rows = qkv.chunks_exact(queries + 2 * keys);
        for span in spans {
            for (position, row) in (span.past..span.end()).zip(rows.by_ref()) {
                let (keys, values) = row[queries..].split_at(keys);
                let heads = keys
                    .chunks_exact(head_dim)
                    .zip(values.chunks_exact(head_dim));
                for (head, (key, value)) in heads.enumerate() {
                    caches[span.cache].write(layer, head, position, key, value);
                }
            }
        }
    }

    fn attend(
        &self,
        layer: usize,
        (spans, caches, passages): (&[Span], &[&mut KvBlocks], &[PassageSpan]),
        qkv: &[f32],
        attended: &mut [f32],
        scratch: &mut attention::Scratch,
    ) {
        let config = &self.config;
        let (head_dim, heads) = (config.head_dim, config.num_attention_heads);
        let group = heads / config.num_key_value_heads;
        let row_len = (heads + 2 * config.num_key_value_heads) * head_dim;
        let window = config.window(layer).unwrap_or(usize::MAX);
        let attended = DisjointParts::new(attended);
        // A piece of work is a span with its cache, a key head, and some of the span's tokens.
        let mut pieces = Vec::new();
        let mut passages = passages.iter();
        for span in spans {
            let own = match span.of {
                SpanCache::Text => None,
                SpanCache::Passage { .. } => passages.next(),
            };
            let seen = match own {
                Some(passage) => (passage.turned(), 0),
                None => (&*caches[span.cache], layer),
            };
            for kv_head in 0..config.num_key_value_heads {
                for first in (0..span.len).step_by(ATTENDED) {
                    let last = (first + ATTENDED).min(span.len);
                    pieces.push((span, seen, kv_head, first..last));
                }
            }
        }
        type Piece<'a> = (&'a Span, (&'a KvBlocks, usize), usize, Range<usize>);
        let work = |scratch: &mut attention::Scratch, piece: &Piece<'_>| {
            let (span, (kv, layer), kv_head, tokens) = piece;
            let places = tokens.clone().flat_map(|token| {
                (kv_head * group..(kv_head + 1) * group).map(move |head| (token, head))
            });
            let places: Vec<_> = places.collect();
            let queries = places.iter().map(|(token, head)| {
                let to = span.past + token + 1;
                Query {
                    query: &qkv[(span.start + token) * row_len + head * head_dim..][..head_dim],
                    from: to.saturating_sub(window),
                    to,
                }
            });
            let queries: Vec<_> = queries.collect();
            let write = |i: usize, sums: &[Lanes], total: f32| {
                let (token, head) = places[i];
                let start = ((span.start + token) * heads + head) * head_dim;
                // SAFETY: each head of each token is in one piece only.
                let out = unsafe { attended.slice(start, head_dim) };
                let scale = 1.0 / total;
                for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                    *out = sum * scale;
                }
            };
            attend(kv, (*layer, *kv_head), &queries, scratch, write);
        };
        let seen: usize = spans.iter().map(|span| span.len * span.end()).sum();
        if seen * heads * head_dim < WORTH_A_THREAD {
            pieces.iter().for_each(|piece| work(scratch, piece));
        } else {
            thread_local! {
                static SCRATCH: RefCell<attention::Scratch> = RefCell::default();
            }
            crew::each(pieces.len(), |at| {
                SCRATCH.with_borrow_mut(|scratch| work(scratch, &pieces[at]));
            });
        }
    }
}

impl Decoder for CpuDecoder {
    fn new_store(&self) -> Box<dyn KvStore> {
        Box::new(KvBlocks::new(self.block_shape()))
    }

    fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        stores: Vec<&mut dyn KvStore>,
        wanted: &WantedRows,
    ) -> Result<(RowVecs, RowVecs), ForwardError> {
        let blocks = stores.into_iter().map(downcast_mut);
        let mut caches: Vec<&mut KvBlocks> = blocks.collect::<Result<_, _>>()?;
        Ok(self.forward_blocks(ids, spans, &mut caches, wanted))
    }

    fn land(
        &self,
        text: &mut dyn KvStore,
        at: usize,
        layers: &[Vec<u8>],
    ) -> Result<(), ForwardError> {
        let text: &mut KvBlocks = downcast_mut(text)?;
        let position = text.layer_bytes();
        let len = layers.first().map_or(0, |rows| rows.len() / position);
        let angles: Angles = angles(&self.frequencies, at..at + len).collect();
        for (layer, rows) in layers.iter().enumerate() {
            text.land_rows((layer, at), rows, &angles);
        }
        Ok(())
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
        let parts = from.chunks(ROWS * from_len);
        let mut parts: Vec<_> = parts.zip(to.chunks_mut(ROWS * to_len)).collect();
        crew::each_mut(&mut parts, |(from, to)| {
            let rows = from.chunks_exact(from_len);
            rows.zip(to.chunks_exact_mut(to_len))
                .for_each(|(from, to)| each(from, to));
        });
    }
}

fn add(what: &[f32], to: &mut [f32]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += what;
    }
}
