//! Rotary position embeddings for a ragged batch.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::rotary_emb::rope_thd;
use mistralrs_core::layers::{Llama3RotaryEmbedding, RotaryEmbedding};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::config::{ModelConfig, RopeScaling};
use crate::model::rope::frequencies;
use crate::model::span::{Landing, Span, SpanCache};

/// Cosines and sines of every position, each `(positions, head_dim / 2)`.
#[derive(Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

/// The angles at the positions of one batch.
pub(crate) struct Angles {
    cos: Tensor, // (tokens, head_dim / 2)
    sin: Tensor, // (tokens, head_dim / 2)
}

/// The angles of a batch.
pub(crate) struct BatchAngles {
    /// Row by row.
    pub(crate) rows: Angles,
    /// For each span the angles of its passage block.
    pub(crate) passages: Vec<Option<PassageAngles>>,
}

/// The angles by which all keys of a passage block are rotated.
pub(crate) struct PassageAngles {
    /// At the block's own positions.
    pub(crate) own: Angles,
    /// The angles where the block lands, and that place.
    pub(crate) landing: Option<(Landing, Angles)>,
}

impl Rotary {
    pub(crate) fn new(config: &ModelConfig, dtype: DType, device: &Device) -> Result<Self> {
        let (cos, sin) = match &config.rope_scaling {
            RopeScaling::Default => RotaryEmbedding::new(
                config.rope_theta,
                config.head_dim,
                config.max_position_embeddings,
                device,
                true,
                dtype,
            )?
            .get_cos_sin()?,
            RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => {
                scaled_tables(config, dtype, device)?
            }
            RopeScaling::Factors(_) => own_tables(config, dtype, device)?,
        };
        Ok(Self { cos, sin })
    }

    /// The angles of a batch, shared by all layers of a forward.
    pub(crate) fn angles(&self, spans: &[Span]) -> Result<BatchAngles> {
        let passage = |span: &Span| match span.of {
            SpanCache::Text => Ok(None),
            SpanCache::Passage { lands } => Ok(Some(PassageAngles {
                own: self.at(0..span.end())?,
                landing: match lands {
                    Some(landing) => {
                        let positions = landing.at..landing.at + span.end();
                        Some((landing, self.at(positions)?))
                    }
                    None => None,
                },
            })),
        };
        Ok(BatchAngles {
            rows: self.at(spans.iter().flat_map(|span| span.past..span.end()))?,
            passages: spans.iter().map(passage).collect::<Result<_>>()?,
        })
    }

    /// The angles at some positions.
    pub(crate) fn at(&self, positions: impl Iterator<Item = usize>) -> Result<Angles> {
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        let positions = Tensor::new(positions, self.cos.device())?; // (tokens)
        Ok(Angles {
            cos: self.cos.index_select(&positions, 0)?,
            sin: self.sin.index_select(&positions, 0)?,
        })
    }
}

impl Angles {
    /// Rotates queries or keys `(tokens, heads, head_dim)` to their positions. It uses candle's
    /// operator, which takes the whole ragged batch; mistral.rs rotates one sequence at a time.
    pub(crate) fn turn(&self, xs: &Tensor) -> Result<Tensor> {
        rope_thd(&xs.unsqueeze(0)?, &self.cos, &self.sin)?.squeeze(0)
    }

    /// Rotates keys in the layout of caches, `(heads, tokens, head_dim)`.
    pub(crate) fn turn_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let turned = self.turn(&xs.transpose(0, 1)?.contiguous()?)?;
        turned.transpose(0, 1)?.contiguous()
    }
}

/// The tables of mistral.rs's scaled rotary embedding are private, so they are read off its
/// results: rotating the pair (1, 0) gives (cos, sin).
fn scaled_tables(config: &ModelConfig, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
    let positions = config.max_position_embeddings;
    let half = config.head_dim / 2;
    let scaled = configured(scaled_config(config), |c| {
        Llama3RotaryEmbedding::new_llama3(dtype, c, device, true)
    })?;
    let shape = (1, 1, positions, half);
    let ones = Tensor::ones(shape, dtype, device)?;
    let pairs = Tensor::cat(&[&ones, &ones.zeros_like()?], 3)?; // (1, 1, positions, head_dim)
    let (turned, _) = scaled.forward(&pairs, &pairs, &[0])?;
    let turned = turned.reshape((positions, config.head_dim))?;
    Ok((
        turned.narrow(1, 0, half)?.contiguous()?,
        turned.narrow(1, half, half)?.contiguous()?,
    ))
}

/// Tables of a scaling that mistral.rs does not have.
fn own_tables(config: &ModelConfig, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
    let frequencies = Tensor::from_vec(frequencies(config), (1, config.head_dim / 2), device)?;
    let positions = Tensor::arange(0, config.max_position_embeddings as u32, device)?;
    let positions = positions.to_dtype(DType::F32)?.unsqueeze(1)?; // (positions, 1)
    let angles = positions.broadcast_mul(&frequencies)?; // (positions, head_dim / 2)
    Ok((
        angles.cos()?.to_dtype(dtype)?,
        angles.sin()?.to_dtype(dtype)?,
    ))
}

/// Calls `make` with a configuration whose type is private in mistral.rs, so the compiler has to
/// infer it.
fn configured<C: DeserializeOwned, T>(
    config: serde_json::Value,
    make: impl FnOnce(&C) -> Result<T>,
) -> Result<T> {
    make(&serde_json::from_value(config).map_err(candle_core::Error::wrap)?)
}

fn scaled_config(config: &ModelConfig) -> serde_json::Value {
    let scaling = match &config.rope_scaling {
        // Factors have their own tables.
        RopeScaling::Default | RopeScaling::Factors(_) => {
            json!({ "rope_type": "default", "factor": 1.0 })
        }
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    json!({
        // Only the quotient of these two is used: the width of a head.
        "hidden_size": config.head_dim,
        "num_attention_heads": 1,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_scaling": scaling,
        // The field is required, but not used.
        "hidden_act": "silu",
        "intermediate_size": 0,
        "vocab_size": 0,
        "num_hidden_layers": 0,
        "num_key_value_heads": 0,
        "rms_norm_eps": 0.0,
        "quantization_config": null,
    })
}
