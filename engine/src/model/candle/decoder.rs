//! The decoder: one stack of layers for all families.

use std::sync::Arc;

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Embedding, Linear};
use mistralrs_core::layers::{Mlp, RmsNorm, embedding};
use mistralrs_quant::{Comm, Id, QuantMethod, ReplicatedLayer, ShardedVarBuilder};

use super::attention::{Attention, Masks};
use super::kv_tensors::KvTensors;
use super::rotary::Rotary;
use crate::config::ModelConfig;
use crate::model::span::Span;
use crate::model::weights;

/// Embedding, layers, final norm and head.
pub(crate) struct CandleDecoder {
    config: ModelConfig,
    dtype: DType,
    embedding: Embedding,
    rotary: Rotary,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Arc<dyn QuantMethod>,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl CandleDecoder {
    pub(crate) fn new(config: &ModelConfig, vb: ShardedVarBuilder) -> Result<Self> {
        let comm = Arc::new(Comm::from_device(Id::new(), vb.device(), 0, 1)?);
        let model = vb.pp("model");
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let stored = if vb.contains_tensor(weights::EMBEDDING) {
            model.pp("embed_tokens")
        } else {
            vb.pp("lm_head")
        };
        let embedding = embedding(vocab, hidden, stored, &None)?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer::new(config, layer, &comm, model.pp("layers").pp(layer)))
            .collect::<Result<_>>()?;
        let head = if config.tie_word_embeddings {
            ReplicatedLayer::from_linear(Linear::new(embedding.embeddings().clone(), None))?
        } else {
            ReplicatedLayer::new(hidden, vocab, &None, false, vb.pp("lm_head"))?
        };
        Ok(Self {
            rotary: Rotary::new(config, vb.dtype(), vb.device())?,
            dtype: vb.dtype(),
            norm: RmsNorm::new(hidden, config.rms_norm_eps, model.pp("norm"))?,
            config: config.clone(),
            embedding,
            layers,
            head,
        })
    }

    /// The type of activations and KV-caches.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The last layer's states before the final norm, `(tokens, hidden)`, of new tokens `ids`,
    /// `(tokens)`. Their keys and values are written into the caches.
    pub(crate) fn states(
        &self,
        ids: &Tensor,
        spans: &[Span],
        caches: &[&KvTensors],
    ) -> Result<Tensor> {
        let mut xs = self.embedding.forward(ids)?;
        let angles = self.rotary.of(spans)?;
        let masks = Masks::new(spans, &self.config, &xs)?;
        for layer in &self.layers {
            let attended = layer.attention.forward(
                &layer.attention_norm.forward(&xs)?,
                &angles,
                &masks,
                spans,
                caches,
            )?;
            xs = (xs + attended)?;
            let fed = layer.mlp.forward(&layer.mlp_norm.forward(&xs)?)?;
            xs = (xs + fed)?;
        }
        Ok(xs)
    }

    /// Writes a passage block, whose keys are not turned yet, into a text's cache from position `at` on.
    pub(crate) fn land(
        &self,
        to: &KvTensors,
        at: usize,
        passage: &KvTensors,
        len: usize,
    ) -> Result<()> {
        let angles = self.rotary.at(at..at + len)?;
        for layer in 0..self.layers.len() {
            let (keys, values) = passage.held(layer, len)?;
            let keys = angles.turn_heads(&keys)?;
            to.write(layer, at, &keys, &values.contiguous()?)?;
        }
        Ok(())
    }

    /// The given rows of `states` after the final norm, `(rows, hidden)`; None for no rows.
    pub(crate) fn finish(&self, states: &Tensor, rows: &[u32]) -> Result<Option<Tensor>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let rows = Tensor::new(rows, states.device())?;
        self.norm.forward(&states.index_select(&rows, 0)?).map(Some)
    }

    /// Logits `(rows, vocab)` of finished states `(rows, hidden)`.
    pub(crate) fn logits(&self, finished: &Tensor) -> Result<Tensor> {
        self.head.forward(finished)
    }
}

impl std::fmt::Debug for CandleDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleDecoder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Layer {
    fn new(
        config: &ModelConfig,
        layer: usize,
        comm: &Arc<Comm>,
        vb: ShardedVarBuilder,
    ) -> Result<Self> {
        let norm = |name: &str| RmsNorm::new(config.hidden_size, config.rms_norm_eps, vb.pp(name));
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::new(config, layer, comm, vb.pp("self_attn"))?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(
                vb.pp("mlp"),
                config.hidden_size,
                config.intermediate_size,
                &None,
                config.hidden_act,
                comm,
            )?,
        })
    }
}
