//! Reads the configuration of a decoder from a GGUF file's metadata.

use std::sync::Arc;

use super::header::Header;
use super::tensors::{EMBEDDING, HEAD, ROPE_FACTORS, stored};
use crate::config::{Activation, Architecture, ModelConfig, RopeScaling, SlidingWindow};
use crate::error::LoadError;
use crate::model::stored::damaged;

/// Reads the configuration.
///
/// # Errors
/// A key is missing or of another type, the architecture or a setting is not supported, or numbers
/// contradict one another.
pub(super) fn config(header: &Header) -> Result<ModelConfig, LoadError> {
    let family = Family::new(header)?;
    let architecture = family.architecture;
    let hidden_size = family.count("embedding_length")?;
    let num_attention_heads = family.count("attention.head_count")?;
    let head_dim = match family.count_if_there("attention.key_length")? {
        Some(width) => width,
        None => hidden_size / num_attention_heads.max(1),
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = family.count_if_there(key)?
            && width != head_dim
        {
            return Err(family.unsupported(
                format!("{} of {width} with heads of {head_dim}", family.key(key)),
                "keys, values and rotary embeddings must be as wide as a head",
            ));
        }
    }
    let has = |name: &str| header.tensors.contains_key(name);
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: family.count("feed_forward_length")?,
        num_hidden_layers: family.layers()?,
        num_attention_heads,
        num_key_value_heads: family
            .count_if_there("attention.head_count_kv")?
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: family.vocabulary()?,
        max_position_embeddings: family.count("context_length")?,
        rms_norm_eps: family.number("attention.layer_norm_rms_epsilon")?,
        rope_theta: family.number_or("rope.freq_base", 10_000.0)? as f32,
        rope_scaling: family.rope_scaling(head_dim)?,
        hidden_act: Activation::Silu,
        tie_word_embeddings: !has(HEAD),
        qkv_bias: architecture == Architecture::Qwen2 || has("blk.0.attn_q.bias"),
        output_bias: has("blk.0.attn_output.bias"),
        qk_norm: architecture == Architecture::Qwen3,
        sliding_window: family.window()?,
        eos_token_ids: header
            .ids(["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"])?,
        bos_token_id: header
            .count("tokenizer.ggml.bos_token_id")?
            .map(|id| id as u32),
    };
    config
        .check()
        .map_err(|reason| damaged(&header.path, reason))?;
    Ok(config)
}

impl Header {
    /// The ids that some keys name.
    pub(super) fn ids<const N: usize>(&self, keys: [&str; N]) -> Result<Vec<u32>, LoadError> {
        let ids = keys.map(|key| Ok(self.count(key)?.map(|id| id as u32)));
        ids.into_iter().filter_map(Result::transpose).collect()
    }
}

/// Metadata whose keys start with the architecture's name.
struct Family<'a> {
    header: &'a Header,
    name: &'a str,
    architecture: Architecture,
}

impl<'a> Family<'a> {
    fn new(header: &'a Header) -> Result<Self, LoadError> {
        let key = "general.architecture";
        let name = header.required(key, header.text(key)?)?;
        let mut family = Self {
            header,
            name,
            architecture: Architecture::Llama,
        };
        family.architecture = match name {
            // Mistral differs from Llama only by its window.
            "llama" if family.window()?.is_some() => Architecture::Mistral,
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            _ => {
                return Err(family.unsupported(
                    format!("the architecture {name:?}"),
                    "use a Llama, Mistral, Qwen2 or Qwen3 model",
                ));
            }
        };
        if header.count("split.count")?.is_some_and(|parts| parts > 1) {
            return Err(family.unsupported(
                "one part of a model in several files".into(),
                "merge the parts into one file",
            ));
        }
        Ok(family)
    }

    fn unsupported(&self, what: String, remedy: &str) -> LoadError {
        LoadError::Unsupported {
            path: self.header.path.to_path_buf(),
            what,
            remedy: remedy.to_owned(),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn count_if_there(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.header.count(&self.key(key))
    }

    fn count(&self, key: &str) -> Result<usize, LoadError> {
        self.header
            .required(&self.key(key), self.count_if_there(key)?)
    }

    fn number(&self, key: &str) -> Result<f64, LoadError> {
        let key = self.key(key);
        self.header.required(&key, self.header.number(&key)?)
    }

    fn number_or(&self, key: &str, absent: f64) -> Result<f64, LoadError> {
        Ok(self.header.number(&self.key(key))?.unwrap_or(absent))
    }

    /// The number of layers, at most the number of tensors, so that a damaged count does not make
    /// the reader generate endless names.
    fn layers(&self) -> Result<usize, LoadError> {
        let (layers, tensors) = (self.count("block_count")?, self.header.tensors.len());
        if layers > tensors {
            let reason = format!("it counts {layers} layers, but holds {tensors} tensors");
            return Err(damaged(&self.header.path, reason));
        }
        Ok(layers)
    }

    /// Rows of the embedding, which may be more than there are tokens in the list.
    fn vocabulary(&self) -> Result<usize, LoadError> {
        let embedding = self.header.tensors.get(EMBEDDING);
        let embedding = embedding.ok_or_else(|| LoadError::MissingTensor {
            dir: self.header.path.to_path_buf(),
            name: EMBEDDING.to_owned(),
        })?;
        Ok(embedding.shape.first().copied().unwrap_or(0))
    }

    fn window(&self) -> Result<Option<SlidingWindow>, LoadError> {
        // llama.cpp does not support Qwen's window.
        if self.name != "llama" {
            return Ok(None);
        }
        let positions = self.count_if_there("attention.sliding_window")?;
        Ok(positions
            .filter(|&positions| positions > 0)
            .map(|positions| SlidingWindow {
                positions,
                from_layer: 0,
            }))
    }

    fn rope_scaling(&self, head_dim: usize) -> Result<RopeScaling, LoadError> {
        // Files from 2023 have the second key, and no type.
        let older = self.number_or("rope.scale_linear", 1.0)?;
        let factor = self.number_or("rope.scaling.factor", older)? as f32;
        let kind = self.header.text(&self.key("rope.scaling.type"))?;
        let factor = match kind.unwrap_or("linear") {
            "none" => 1.0,
            "linear" if factor > 0.0 => factor,
            "linear" => 1.0,
            other => {
                return Err(self.unsupported(
                    format!("the rope scaling {other:?}"),
                    "none, linear and Llama 3.1's are",
                ));
            }
        };
        if let Some(mut factors) = self.rope_factors(head_dim)? {
            factors.iter_mut().for_each(|one| *one *= factor);
            return Ok(RopeScaling::Factors(Arc::from(factors)));
        }
        Ok(match factor {
            1.0 => RopeScaling::Default,
            factor => RopeScaling::Linear { factor },
        })
    }

    fn rope_factors(&self, head_dim: usize) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(info) = self.header.tensors.get(ROPE_FACTORS) else {
            return Ok(None);
        };
        let factors = stored(self.header, ROPE_FACTORS, info)?.numbers()?;
        if factors.len() != head_dim / 2 || factors.iter().any(|f| !f.is_normal() || *f < 0.0) {
            let reason = format!("{ROPE_FACTORS} is not {} positive numbers", head_dim / 2);
            return Err(damaged(&self.header.path, reason));
        }
        Ok(Some(factors))
    }
}
