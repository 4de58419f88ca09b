//! Attention of a ragged batch: projections over all tokens at once, scores per sequence.

use std::sync::Arc;

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use mistralrs_core::layers::RmsNorm;
use mistralrs_quant::{
    ColumnParallelLayer, Comm, QuantMethod, RowParallelLayer, ShardedVarBuilder,
};

use super::kv_tensors::KvTensors;
use super::rotary::BatchAngles;
use crate::config::ModelConfig;
use crate::model::span::Span;

/// One layer's attention.
#[derive(Debug)]
pub(crate) struct Attention {
    layer: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    query: Arc<dyn QuantMethod>,
    key: Arc<dyn QuantMethod>,
    value: Arc<dyn QuantMethod>,
    output: Arc<dyn QuantMethod>,
    /// Norms of queries and keys per head.
    qk_norm: Option<(RmsNorm, RmsNorm)>,
}

impl Attention {
    pub(crate) fn new(
        config: &ModelConfig,
        layer: usize,
        comm: &Arc<Comm>,
        vb: ShardedVarBuilder,
    ) -> Result<Self> {
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let project = |heads: usize, name: &str| {
            ColumnParallelLayer::new(
                config.hidden_size,
                heads * head_dim,
                &None,
                config.qkv_bias,
                comm,
                vb.pp(name),
            )
        };
        let qk_norm = if config.qk_norm {
            let norm = |name: &str| RmsNorm::new(head_dim, config.rms_norm_eps, vb.pp(name));
            Some((norm("q_norm")?, norm("k_norm")?))
        } else {
            None
        };
        Ok(Self {
            layer,
            heads,
            kv_heads,
            head_dim,
            window: config.window(layer),
            query: project(heads, "q_proj")?,
            key: project(kv_heads, "k_proj")?,
            value: project(kv_heads, "v_proj")?,
            output: RowParallelLayer::new(
                heads * head_dim,
                config.hidden_size,
                &None,
                config.output_bias,
                comm,
                vb.pp("o_proj"),
            )?,
            qk_norm,
        })
    }

    /// `xs` is `(tokens, hidden)`, all new tokens of all sequences; so is the result.
    pub(crate) fn forward(
        &self,
        xs: &Tensor,
        angles: &BatchAngles,
        masks: &Masks,
        spans: &[Span],
        caches: &[&KvTensors],
    ) -> Result<Tensor> {
        let tokens = xs.dim(0)?;
        let split = |xs: Tensor, heads| xs.reshape((tokens, heads, self.head_dim));
        let mut queries = split(self.query.forward(xs)?, self.heads)?; // (tokens, heads, head_dim)
        let mut keys = split(self.key.forward(xs)?, self.kv_heads)?; // (tokens, kv_heads, head_dim)
        let values = split(self.value.forward(xs)?, self.kv_heads)?;
        if let Some((query_norm, key_norm)) = &self.qk_norm {
            queries = query_norm.forward(&queries)?;
            keys = key_norm.forward(&keys)?;
        }
        let queries = (angles.rows.turn(&queries)? * (self.head_dim as f64).powf(-0.5))?;
        let turned = angles.rows.turn(&keys)?;

        let mut attended = Vec::with_capacity(spans.len());
        for (at, span) in spans.iter().enumerate() {
            let own = |xs: &Tensor| {
                xs.narrow(0, span.start, span.len)?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let values = own(&values)?;
            let cache = caches[span.cache];
            let write = |keys| cache.write(self.layer, span.past, &keys, &values);
            let (keys, values) = match &angles.passages[at] {
                None => write(own(&turned)?)?,
                Some(passage) => {
                    let (keys, values) = write(own(&keys)?)?;
                    if let Some((landing, angles)) = &passage.landing {
                        let keys = angles.turn_heads(&keys)?;
                        let text = caches[landing.cache];
                        text.write(self.layer, landing.at, &keys, &values.contiguous()?)?;
                    }
                    (passage.own.turn_heads(&keys)?, values)
                }
            };
            let mask = masks.mask(at, self.window.is_some());
            attended.push(self.attend(&own(&queries)?, &keys, &values, mask)?);
        }
        self.output.forward(&Tensor::cat(&attended, 0)?)
    }

    /// One sequence: queries `(heads, new, head_dim)`, keys and values `(kv_heads, len, head_dim)`,
    /// mask `(new, len)`. Gives `(new, heads * head_dim)`.
    ///
    /// It uses candle's operators, because mistral.rs's `Sdpa` cannot be called from outside, and
    /// its `MatMul` multiplies in f16 on the CPU.
    fn attend(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (new, len) = (queries.dim(1)?, keys.dim(1)?);
        let group = self.heads / self.kv_heads;
        // Query heads that share a key head become rows of one matrix, so that no key is repeated.
        let queries = queries.reshape((self.kv_heads, group * new, self.head_dim))?;
        let mut scores = queries.matmul(&keys.transpose(1, 2)?)?; // (kv_heads, group * new, len)
        if let Some(mask) = mask {
            scores = scores
                .reshape((self.heads, new, len))?
                .broadcast_add(mask)?
                .reshape((self.kv_heads, group * new, len))?;
        }
        let weights = softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(values.dtype())?;
        weights
            .matmul(values)? // (kv_heads, group * new, head_dim)
            .reshape((self.heads, new, self.head_dim))?
            .transpose(0, 1)?
            .reshape((new, self.heads * self.head_dim))
    }
}

/// For each sequence, the tokens that its new tokens may not see: later ones, and those beyond the
/// window.
pub(crate) struct Masks {
    full: Vec<Option<Tensor>>,
    windowed: Vec<Option<Tensor>>,
}

impl Masks {
    /// Masks shared by all layers of a forward.
    pub(crate) fn new(spans: &[Span], config: &ModelConfig, like: &Tensor) -> Result<Self> {
        let masks = |window: Option<usize>| {
            spans
                .iter()
                .map(|span| mask(span.past, span.len, window, like))
                .collect::<Result<Vec<_>>>()
        };
        let window = config.sliding_window.map(|window| window.positions);
        Ok(Self {
            full: masks(None)?,
            windowed: if window.is_some() {
                masks(window)?
            } else {
                Vec::new()
            },
        })
    }

    fn mask(&self, sequence: usize, windowed: bool) -> Option<&Tensor> {
        let masks = if windowed { &self.windowed } else { &self.full };
        masks.get(sequence)?.as_ref()
    }
}

/// `(new, past + new)`: 0 where a new token may look, -inf where it may not. `None` if every token
/// may look everywhere.
fn mask(past: usize, new: usize, window: Option<usize>, like: &Tensor) -> Result<Option<Tensor>> {
    let len = past + new;
    let window = window.unwrap_or(len);
    if new == 1 && len <= window {
        return Ok(None);
    }
    let mask: Vec<f32> = (past..len)
        .flat_map(|at| {
            (0..len).map(move |other| {
                let seen = other <= at && at - other < window;
                if seen { 0.0 } else { f32::NEG_INFINITY }
            })
        })
        .collect();
    let mask = Tensor::from_vec(mask, (new, len), like.device())?;
    Ok(Some(mask.to_dtype(like.dtype())?))
}
