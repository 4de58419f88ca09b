//! The decoder: one stack of layers for all families.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Module, Result, Tensor};
use candle_nn::{Embedding, Linear};
use mistralrs_core::layers::{Mlp, RmsNorm, embedding};
use mistralrs_quant::{Comm, Id, QuantMethod, ReplicatedLayer, ShardedVarBuilder};

use super::attention::{Attention, Masks};
use super::kv_tensors::KvTensors;
use super::rotary::Rotary;
use crate::config::{Activation, ModelConfig};
use crate::error::ForwardError;
use crate::model::decoder::{Decoder, KvStore, RowVecs, WantedRows, downcast, downcast_mut};
use crate::model::span::Span;
use crate::model::weights;

/// Embedding, layers, final norm and head.
pub(crate) struct CandleDecoder {
    config: ModelConfig,
    /// The type of activations and KV-caches.
    dtype: DType,
    device: Device,
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
            device: vb.device().clone(),
            norm: RmsNorm::new(hidden, config.rms_norm_eps, model.pp("norm"))?,
            config: config.clone(),
            embedding,
            layers,
            head,
        })
    }

    /// The last layer's states before the final norm, `(tokens, hidden)`, of new tokens `ids`,
    /// `(tokens)`. Their keys and values are written into the caches.
    fn states(&self, ids: &Tensor, spans: &[Span], caches: &[&KvTensors]) -> Result<Tensor> {
        let mut xs = self.embedding.forward(ids)?;
        let angles = self.rotary.angles(spans)?;
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

    /// The given rows of `states` after the final norm, `(rows, hidden)`; None for no rows.
    fn finish(&self, states: &Tensor, rows: &[u32]) -> Result<Option<Tensor>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let rows = Tensor::new(rows, states.device())?;
        self.norm.forward(&states.index_select(&rows, 0)?).map(Some)
    }

    /// Logits `(rows, vocab)` of finished states `(rows, hidden)`.
    fn logits(&self, finished: &Tensor) -> Result<Tensor> {
        self.head.forward(finished)
    }
}

impl Decoder for CandleDecoder {
    fn new_store(&self) -> Box<dyn KvStore> {
        Box::new(KvTensors::new(&self.config, self.dtype, &self.device))
    }

    fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        stores: Vec<&mut dyn KvStore>,
        wanted: &WantedRows,
    ) -> std::result::Result<(RowVecs, RowVecs), ForwardError> {
        let tensors = stores.into_iter().map(|store| downcast(store));
        let caches: Vec<&KvTensors> = tensors.collect::<std::result::Result<_, _>>()?;
        let ids = Tensor::new(ids, &self.device)?; // (tokens)
        let states = self.states(&ids, spans, &caches)?; // (tokens, hidden)
        let hidden = self.finish(&states, &wanted.hidden)?;
        let logits = match self.finish(&states, &wanted.logits)? {
            Some(rows) => Some(self.logits(&rows)?),
            None => None,
        };
        Ok((rows_to_vecs(hidden)?, rows_to_vecs(logits)?))
    }

    fn land(
        &self,
        text: &mut dyn KvStore,
        at: usize,
        layers: &[Vec<u8>],
    ) -> std::result::Result<(), ForwardError> {
        let text: &KvTensors = downcast_mut(text)?;
        let position = text.layer_bytes();
        let len = layers.first().map_or(0, |rows| rows.len() / position);
        let angles = self.rotary.at(at..at + len)?;
        for (layer, rows) in layers.iter().enumerate() {
            let (keys, values) = text.tensors(rows, len)?;
            let keys = angles.turn_heads(&keys)?;
            text.write(layer, at, &keys, &values)?;
        }
        Ok(())
    }
}

/// `(rows, width)` in any float type as f32 rows.
fn rows_to_vecs(rows: Option<Tensor>) -> Result<RowVecs> {
    match rows {
        Some(rows) => rows.to_dtype(DType::F32)?.to_vec2(),
        None => Ok(Vec::new()),
    }
}

/// The activation as mistral.rs knows it.
fn activation(ours: &Activation) -> Result<mistralrs_core::layers::Activation> {
    match ours {
        Activation::Silu => Ok(mistralrs_core::layers::Activation::Silu),
        Activation::Other(name) => serde_json::from_value(name.clone())
            .map_err(|error| Error::msg(format!("hidden_act {name}: {error}"))),
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
                activation(&config.hidden_act)?,
                comm,
            )?,
        })
    }
}
