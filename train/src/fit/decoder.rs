//! The decoder with gradients: the engine's decoder, forward and backward over packs of segments.
//!
//! Values that are cheap to recompute (norms, activations) are recomputed in the backward pass, so a
//! token keeps only about five numbers per layer and unit of width.

use std::ops::Range;

use onegen_engine::ModelConfig;

use super::attention::{Attention, Heads, ProjectionGradients, Projections};
use super::elementwise::{Rotations, rms_norm, rms_norm_backward, swiglu, swiglu_backward};
use super::linear::{Linear, LowRankActivations, TwoWayMatrix};
use super::pack::Pack;
use super::parameters::{Gradients, ParameterId, Parameters};
use super::product::{Element, Rows};
use crate::ops::{TransposedFactor, product};

// Indices of the linear layers in `onegen_engine::PROJECTIONS`.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

/// A norm's weight.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) learnt: Option<ParameterId>,
}

/// A decoder layer.
pub(super) struct Layer<E> {
    pub(super) attention_norm: Norm,
    pub(super) mlp_norm: Norm,
    /// Norms of each head's queries and keys, if the family has them
    pub(super) qk_norm: Option<[Norm; 2]>,
    pub(super) linear: [Linear<E>; 7],
}

/// A table with one row for each token: the embedding or the head.
pub(super) struct Table<E> {
    pub(super) packed: TwoWayMatrix<E>,
    pub(super) learnt: LearntRows,
}

/// Which rows of a table are trained.
pub(super) enum LearntRows {
    None,
    All(ParameterId),
    /// The rows of some tokens, in this order
    Some(ParameterId, Vec<u32>),
}

/// A decoder whose parameters are trained.
pub struct Decoder<E> {
    pub(super) config: ModelConfig,
    pub(super) layers: Vec<Layer<E>>,
    pub(super) norm: Norm,
    /// The head. If it is tied to the embedding, this is the only table
    pub(super) head: Table<E>,
    pub(super) embedding: Option<Table<E>>,
    pub(super) rotations: Rotations,
}

/// The values of a forward pass that the backward pass needs.
pub struct Tape<E> {
    layers: Vec<LayerTape<E>>,
    /// The states before the final norm, (tokens, hidden)
    states: Vec<f32>,
}

struct LayerTape<E> {
    /// The layer's input, (tokens, hidden)
    input: Vec<f32>,
    /// Queries, keys and values as projected
    qkv: [Rows<E>; 3],
    attended: Rows<E>,
    /// The input of the feed-forward half
    middle: Vec<f32>,
    gate: Rows<E>,
    up: Rows<E>,
    narrow: [LowRankActivations<E>; 7],
}

impl<E: Element> Decoder<E> {
    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Copies the current values of the parameters.
    pub fn refresh(&mut self, parameters: &Parameters) {
        let take = |norm: &mut Norm| {
            if let Some(id) = norm.learnt {
                norm.weight.clone_from(&parameters.get(id).values);
            }
        };
        for layer in &mut self.layers {
            layer
                .linear
                .iter_mut()
                .for_each(|linear| linear.refresh(parameters));
            take(&mut layer.attention_norm);
            take(&mut layer.mlp_norm);
            layer.qk_norm.iter_mut().flatten().for_each(take);
        }
        take(&mut self.norm);
        self.head.refresh(parameters);
        if let Some(embedding) = &mut self.embedding {
            embedding.refresh(parameters);
        }
    }

    /// Rounds the frozen matrices of all layers, and from then on what they are multiplied with, to 8 bits.
    /// Tables of tokens stay as they are.
    pub fn quantise(&mut self) {
        let layers = self.layers.iter_mut();
        layers
            .flat_map(|layer| &mut layer.linear)
            .for_each(Linear::quantise);
    }

    fn epsilon(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.config.num_attention_heads,
            keys: self.config.num_key_value_heads,
            dim: self.config.head_dim,
        }
    }

    fn attention<'a>(&'a self, packs: &'a [Pack]) -> Attention<'a> {
        Attention {
            heads: self.heads(),
            rotations: &self.rotations,
            packs,
        }
    }

    /// Forwards packs and keeps what [`Self::backward`] needs.
    pub fn forward(&self, packs: &[Pack]) -> Tape<E> {
        let hidden = self.config.hidden_size;
        let tokens: usize = packs.iter().map(Pack::tokens).sum();
        let mut states = vec![0.0; tokens * hidden];
        for (id, state) in ids(packs).zip(states.chunks_exact_mut(hidden)) {
            self.lookup().packed.forward.copy_row(id as usize, state);
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (tape, next) = self.layer(layer, packs, states);
            layers.push(tape);
            states = next;
        }
        Tape { layers, states }
    }

    /// The table that ids are looked up in.
    fn lookup(&self) -> &Table<E> {
        self.embedding.as_ref().unwrap_or(&self.head)
    }

    fn layer(&self, layer: &Layer<E>, packs: &[Pack], input: Vec<f32>) -> (LayerTape<E>, Vec<f32>) {
        let Heads { queries, dim, .. } = self.heads();
        let tokens = input.len() / self.config.hidden_size;
        let mut narrow: [LowRankActivations<E>; 7] = Default::default();
        let normed = self.normed(&layer.attention_norm, &input);
        let qkv = [Q, K, V].map(|which| {
            let linear = &layer.linear[which];
            let mut out = vec![0.0; tokens * linear.outputs()];
            narrow[which] = linear.forward(&normed, &mut out, false);
            Rows::new(&out, linear.outputs())
        });
        let normed_heads = self.normed_heads(layer, &qkv);
        let mut attended = vec![0.0; tokens * queries * dim];
        let projected = projected(&qkv, &normed_heads);
        self.attention(packs).forward(&projected, &mut attended);
        let attended = Rows::new(&attended, queries * dim);
        let mut middle = input.clone();
        narrow[O] = layer.linear[O].forward(&attended, &mut middle, true);

        let normed = self.normed(&layer.mlp_norm, &middle);
        let [gate, up] = [GATE, UP].map(|which| {
            let linear = &layer.linear[which];
            let mut out = vec![0.0; tokens * linear.outputs()];
            narrow[which] = linear.forward(&normed, &mut out, false);
            Rows::new(&out, linear.outputs())
        });
        let fed = fed(&gate, &up);
        let mut output = middle.clone();
        narrow[DOWN] = layer.linear[DOWN].forward(
            &Rows::new(&fed, self.config.intermediate_size),
            &mut output,
            true,
        );
        let tape = LayerTape {
            input,
            qkv,
            attended,
            middle,
            gate,
            up,
            narrow,
        };
        (tape, output)
    }

    fn normed(&self, norm: &Norm, states: &[f32]) -> Rows<E> {
        Rows::new(&self.normed_f32(norm, states), norm.weight.len())
    }

    fn normed_f32(&self, norm: &Norm, states: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; states.len()];
        rms_norm(states, &norm.weight, self.epsilon(), &mut normed);
        normed
    }

    /// Queries and keys with each head normalised, if the family does that.
    fn normed_heads(&self, layer: &Layer<E>, qkv: &[Rows<E>; 3]) -> Option<[Rows<E>; 2]> {
        let norms = layer.qk_norm.as_ref()?;
        Some([0, 1].map(|which| {
            let normed = self.normed_f32(&norms[which], &qkv[which].to_f32());
            Rows::new(&normed, qkv[which].width())
        }))
    }

    /// The states after the final norm at some tokens of the batch, `hidden_size` numbers each.
    pub fn finish(&self, tape: &Tape<E>, tokens: &[usize]) -> Vec<f32> {
        self.normed_f32(&self.norm, &self.gather(&tape.states, tokens))
    }

    /// Backward pass of [`Self::finish`]: adds the gradient at some tokens to `dstates`, the gradient of
    /// the states before the final norm.
    pub fn finish_backward(
        &self,
        tape: &Tape<E>,
        tokens: &[usize],
        dfinished: &[f32],
        dstates: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let hidden = self.config.hidden_size;
        let states = self.gather(&tape.states, tokens);
        let mut dgathered = vec![0.0; states.len()];
        self.norm_backward(&self.norm, &states, dfinished, &mut dgathered, gradients);
        for (token, d) in tokens.iter().zip(dgathered.chunks_exact(hidden)) {
            let place = &mut dstates[token * hidden..][..hidden];
            place.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
    }

    fn gather(&self, states: &[f32], tokens: &[usize]) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let rows = tokens
            .iter()
            .map(|token| &states[token * hidden..][..hidden]);
        rows.flatten().copied().collect()
    }

    /// The logits of finished states, `vocab_size` numbers each.
    pub fn logits(&self, finished: &[f32]) -> Vec<f32> {
        let rows = Rows::new(finished, self.config.hidden_size);
        let mut logits = vec![0.0; rows.count() * self.config.vocab_size];
        self.head.packed.forward.product(&rows, &mut logits, false);
        logits
    }

    /// The gradient of finished states, given that of their logits. The head's gradient is added to
    /// `gradients`.
    pub fn logits_backward(
        &self,
        finished: &[f32],
        dlogits: &[f32],
        gradients: &mut Gradients,
    ) -> Vec<f32> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let mut dfinished = vec![0.0; finished.len()];
        let rows = Rows::new(dlogits, vocab);
        self.head
            .packed
            .backward
            .product(&rows, &mut dfinished, false);
        match &self.head.learnt {
            LearntRows::None => {}
            LearntRows::All(id) => {
                let sizes = (vocab, rows.count(), hidden);
                product(
                    dlogits,
                    finished,
                    gradients.get_mut(*id),
                    sizes,
                    TransposedFactor::Atb,
                    1.0,
                    true,
                );
            }
            LearntRows::Some(id, ids) => {
                let sum = gradients.get_mut(*id);
                for (dlogits, state) in dlogits
                    .chunks_exact(vocab)
                    .zip(finished.chunks_exact(hidden))
                {
                    for (id, sum) in ids.iter().zip(sum.chunks_exact_mut(hidden)) {
                        let d = dlogits[*id as usize];
                        sum.iter_mut().zip(state).for_each(|(sum, x)| *sum += d * x);
                    }
                }
            }
        }
        dfinished
    }

    /// Adds all gradients that follow from `dstates`, the gradient of the states before the final norm.
    pub fn backward(
        &self,
        packs: &[Pack],
        mut tape: Tape<E>,
        mut dstates: Vec<f32>,
        gradients: &mut Gradients,
    ) {
        for layer in self.layers.iter().rev() {
            if let Some(tape) = tape.layers.pop() {
                self.layer_backward(layer, packs, tape, &mut dstates, gradients);
            }
        }
        self.lookup()
            .lookup_backward(ids(packs), &dstates, gradients);
    }

    fn layer_backward(
        &self,
        layer: &Layer<E>,
        packs: &[Pack],
        tape: LayerTape<E>,
        dstates: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let tokens = dstates.len() / hidden;
        let linear = &layer.linear;

        let mut dfed = vec![0.0; tokens * inner];
        linear[DOWN].backward(
            dstates,
            &fed(&tape.gate, &tape.up),
            &tape.narrow[DOWN],
            (&mut dfed, false),
            gradients,
        );
        let mut dgate = tape.gate.to_f32();
        let mut dup = tape.up.to_f32();
        for ((gate, up), dfed) in dgate.iter_mut().zip(&mut dup).zip(&dfed) {
            (*gate, *up) = swiglu_backward(*gate, *up, *dfed);
        }
        drop(dfed);
        let normed = self.normed_f32(&layer.mlp_norm, &tape.middle);
        let mut dnormed = vec![0.0; tokens * hidden];
        for (which, dout, add) in [(GATE, &dgate, false), (UP, &dup, true)] {
            let narrow = &tape.narrow[which];
            linear[which].backward(dout, &normed, narrow, (&mut dnormed, add), gradients);
        }
        self.norm_backward(&layer.mlp_norm, &tape.middle, &dnormed, dstates, gradients);

        let heads = self.heads();
        let mut dattended = vec![0.0; tokens * heads.queries * heads.dim];
        linear[O].backward(
            dstates,
            &tape.attended.to_f32(),
            &tape.narrow[O],
            (&mut dattended, false),
            gradients,
        );
        let normed_heads = self.normed_heads(layer, &tape.qkv);
        let [mut dq, mut dk, mut dv] =
            [Q, K, V].map(|which| vec![0.0; tokens * linear[which].outputs()]);
        self.attention(packs).backward(
            &projected(&tape.qkv, &normed_heads),
            &tape.attended,
            &dattended,
            &mut ProjectionGradients {
                q: &mut dq,
                k: &mut dk,
                v: &mut dv,
            },
        );
        if let Some(norms) = &layer.qk_norm {
            for (which, d) in [(Q, &mut dq), (K, &mut dk)] {
                let mut before = vec![0.0; d.len()];
                let raw = tape.qkv[which].to_f32();
                self.norm_backward(&norms[which], &raw, d, &mut before, gradients);
                *d = before;
            }
        }
        let normed = self.normed_f32(&layer.attention_norm, &tape.input);
        for (which, dout, add) in [(Q, &dq, false), (K, &dk, true), (V, &dv, true)] {
            let narrow = &tape.narrow[which];
            linear[which].backward(dout, &normed, narrow, (&mut dnormed, add), gradients);
        }
        self.norm_backward(
            &layer.attention_norm,
            &tape.input,
            &dnormed,
            dstates,
            gradients,
        );
    }

    fn norm_backward(
        &self,
        norm: &Norm,
        x: &[f32],
        dout: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let dweight = norm.learnt.map(|id| gradients.get_mut(id));
        rms_norm_backward(x, &norm.weight, self.epsilon(), dout, dx, dweight);
    }
}

impl<E: Element> Table<E> {
    fn refresh(&mut self, parameters: &Parameters) {
        match &self.learnt {
            LearntRows::None => {}
            LearntRows::All(id) => {
                let parameter = parameters.get(*id);
                let (rows, columns) = parameter.shape;
                self.packed = TwoWayMatrix::new(&parameter.values, rows, columns);
            }
            LearntRows::Some(id, ids) => {
                let parameter = parameters.get(*id);
                let rows = parameter.values.chunks_exact(parameter.shape.1);
                for (id, row) in ids.iter().zip(rows) {
                    self.packed.forward.set_row(*id as usize, row);
                    self.packed.backward.set_column(*id as usize, row);
                }
            }
        }
    }

    fn lookup_backward(
        &self,
        looked_up: impl Iterator<Item = u32>,
        dstates: &[f32],
        gradients: &mut Gradients,
    ) {
        let hidden = self.packed.backward.outputs();
        let (sum, place): (_, Box<dyn Fn(u32) -> Option<usize>>) = match &self.learnt {
            LearntRows::None => return,
            LearntRows::All(id) => (*id, Box::new(|id| Some(id as usize))),
            LearntRows::Some(id, ids) => (
                *id,
                Box::new(|id| ids.iter().position(|learnt| *learnt == id)),
            ),
        };
        let sum = gradients.get_mut(sum);
        for (id, d) in looked_up.zip(dstates.chunks_exact(hidden)) {
            if let Some(row) = place(id) {
                let row = &mut sum[row * hidden..][..hidden];
                row.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            }
        }
    }
}

/// The ids of all packs' tokens, in order.
fn ids(packs: &[Pack]) -> impl Iterator<Item = u32> {
    let segments = packs.iter().flat_map(|pack| &pack.segments);
    segments.flat_map(|segment| segment.ids.iter().copied())
}

fn projected<'a, E>(qkv: &'a [Rows<E>; 3], normed: &'a Option<[Rows<E>; 2]>) -> Projections<'a, E> {
    let [q, k, v] = qkv;
    match normed {
        Some([q, k]) => Projections { q, k, v },
        None => Projections { q, k, v },
    }
}

/// The input of the last linear layer.
fn fed<E: Element>(gate: &Rows<E>, up: &Rows<E>) -> Vec<f32> {
    let mut fed = gate.to_f32();
    let width = up.width();
    for (row, fed) in fed.chunks_exact_mut(width).enumerate() {
        for (fed, up) in fed.iter_mut().zip(up.row(row)) {
            *fed = swiglu(*fed, up.to_f32());
        }
    }
    fed
}

/// The place of each pack's first token within the batch.
pub(super) fn starts(packs: &[Pack]) -> Vec<usize> {
    let mut end = 0;
    let starts = packs.iter().map(|pack| {
        let range: Range<usize> = end..end + pack.tokens();
        end = range.end;
        range.start
    });
    starts.collect()
}
