//! The decoder with gradients: the Qwen3 shape (query and key norms, tied embeddings, no biases) over a
//! ragged batch, with the tensor names that the engine and other programs expect.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use crate::ops::{self, AttentionShape};

/// The model's sizes; the fields of a Hugging Face `config.json` that matter here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens of the vocabulary
    pub vocab_size: usize,
    /// Width of the residual stream
    pub hidden_size: usize,
    /// Width of the feed-forward layer
    pub intermediate_size: usize,
    /// Layers
    pub num_hidden_layers: usize,
    /// Attention heads, each with keys and values of its own
    pub num_attention_heads: usize,
    /// Width of a head
    pub head_dim: usize,
    /// The most positions of a sequence
    pub max_position_embeddings: usize,
    /// Added to the mean square before its root
    pub rms_norm_eps: f64,
    /// Base of the rotary angles
    pub rope_theta: f64,
}

/// How a weight starts.
enum Start {
    Zeros,
    Ones,
    Normal(f32),
}

/// One weight.
pub struct Weight {
    /// Its Hugging Face name
    pub name: String,
    /// Its value; the optimiser writes it
    pub var: Var,
}

/// The weights.
pub struct Model {
    /// Its sizes
    pub shape: Shape,
    /// All weights: embedding, final norm, then `PER_LAYER` for each layer
    pub weights: Vec<Weight>,
}

const PER_LAYER: usize = 11;

impl Model {
    /// A model with random weights.
    pub fn new(shape: Shape, seed: u64) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut weights = Vec::new();
        for (name, size, start) in layout(&shape) {
            let count = size.iter().product();
            let values: Vec<f32> = match start {
                Start::Zeros => vec![0.0; count],
                Start::Ones => vec![1.0; count],
                Start::Normal(deviation) => Normal::new(0.0, deviation)?
                    .sample_iter(&mut rng)
                    .take(count)
                    .collect(),
            };
            weights.push(Weight {
                name,
                var: Var::from_vec(values, size, &Device::Cpu)?,
            });
        }
        Ok(Self { shape, weights })
    }

    /// Reads the weights of `shape` from a safetensors file.
    pub fn load(shape: Shape, path: &Path) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut weights = Vec::new();
        for (name, _, _) in layout(&shape) {
            let tensor = tensors
                .get(&name)
                .with_context(|| format!("{} holds no {name}", path.display()))?;
            weights.push(Weight {
                var: Var::from_tensor(&tensor.to_dtype(DType::F32)?)?,
                name,
            });
        }
        Ok(Self { shape, weights })
    }

    /// Reads a model directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let config = directory.join("config.json");
        let bytes =
            std::fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let shape = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} lacks a size", config.display()))?;
        Self::load(shape, &directory.join("model.safetensors"))
    }

    /// A copy with embeddings for `tokens` tokens in total. A new embedding starts as the mean of
    /// the others.
    pub fn widened(self, tokens: usize) -> Result<Self> {
        let Self {
            mut shape,
            mut weights,
        } = self;
        let embedding = weights[0].var.as_tensor();
        let new = embedding
            .mean_keepdim(0)?
            .repeat((tokens - shape.vocab_size, 1))?;
        weights[0].var = Var::from_tensor(&Tensor::cat(&[embedding, &new], 0)?)?;
        shape.vocab_size = tokens;
        Ok(Self { shape, weights })
    }

    /// Writes the weights as `dtype`.
    pub fn save(&self, path: &Path, dtype: DType) -> Result<()> {
        let tensors = self
            .weights
            .iter()
            .map(|weight| Ok((weight.name.clone(), weight.var.as_tensor().to_dtype(dtype)?)));
        let tensors: std::collections::HashMap<String, Tensor> = tensors.collect::<Result<_>>()?;
        candle_core::safetensors::save(&tensors, path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// How many numbers the weights are.
    pub fn parameters(&self) -> usize {
        self.weights
            .iter()
            .map(|weight| weight.var.elem_count())
            .sum()
    }

    /// The last layer's states after the final norm, (tokens, hidden_size).
    /// `ends` and `blocks` are those of [`AttentionShape`].
    pub fn forward(&self, ids: &[u32], ends: &[usize], blocks: &[Range<usize>]) -> Result<Tensor> {
        let shape = &self.shape;
        let epsilon = shape.rms_norm_eps as f32;
        let attention = Arc::new(AttentionShape {
            ends: ends.to_vec(),
            blocks: blocks.to_vec(),
            heads: shape.num_attention_heads,
            head_dim: shape.head_dim,
            rope_theta: shape.rope_theta as f32,
        });
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = self.embedding().index_select(&ids, 0)?;
        for layer in self.weights[2..].chunks_exact(PER_LAYER) {
            let weight = |at: usize| layer[at].var.as_tensor();
            let linear = |x: &Tensor, at: usize| x.matmul(&weight(at).t()?);
            let h = ops::rms_norm(&x, weight(0), epsilon)?;
            let per_head = |x: Tensor, norm: usize| -> Result<Tensor> {
                let size = x.dims().to_vec();
                Ok(
                    ops::rms_norm(&x.reshape(((), shape.head_dim))?, weight(norm), epsilon)?
                        .reshape(size)?,
                )
            };
            let (q, k, v) = (
                per_head(linear(&h, 1)?, 5)?,
                per_head(linear(&h, 2)?, 6)?,
                linear(&h, 3)?,
            );
            x = (x + linear(&ops::attention(&q, &k, &v, &attention)?, 4)?)?;
            let h = ops::rms_norm(&x, weight(7), epsilon)?;
            x = (x + linear(&ops::swiglu(&linear(&h, 8)?, &linear(&h, 9)?)?, 10)?)?;
        }
        Ok(ops::rms_norm(&x, self.weights[1].var.as_tensor(), epsilon)?)
    }

    /// The embedding, which is also the output matrix, (vocab_size, hidden_size).
    pub fn embedding(&self) -> &Tensor {
        self.weights[0].var.as_tensor()
    }
}

/// Every weight's name, size and start.
fn layout(shape: &Shape) -> Vec<(String, Vec<usize>, Start)> {
    let (hidden, inner, heads) = (
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_attention_heads * shape.head_dim,
    );
    let deviation = (hidden as f32).sqrt().recip();
    let mut weights = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![shape.vocab_size, hidden],
            Start::Normal(0.02),
        ),
        ("model.norm.weight".to_owned(), vec![hidden], Start::Ones),
    ];
    for layer in 0..shape.num_hidden_layers {
        // Matrices that write into the residual stream start at zero, so every layer begins as the
        // identity.
        let of_layer: [(&str, Vec<usize>, Start); PER_LAYER] = [
            ("input_layernorm", vec![hidden], Start::Ones),
            (
                "self_attn.q_proj",
                vec![heads, hidden],
                Start::Normal(deviation),
            ),
            (
                "self_attn.k_proj",
                vec![heads, hidden],
                Start::Normal(deviation),
            ),
            (
                "self_attn.v_proj",
                vec![heads, hidden],
                Start::Normal(deviation),
            ),
            ("self_attn.o_proj", vec![hidden, heads], Start::Zeros),
            ("self_attn.q_norm", vec![shape.head_dim], Start::Ones),
            ("self_attn.k_norm", vec![shape.head_dim], Start::Ones),
            ("post_attention_layernorm", vec![hidden], Start::Ones),
            (
                "mlp.gate_proj",
                vec![inner, hidden],
                Start::Normal(deviation),
            ),
            ("mlp.up_proj", vec![inner, hidden], Start::Normal(deviation)),
            ("mlp.down_proj", vec![hidden, inner], Start::Zeros),
        ];
        weights.extend(of_layer.into_iter().map(|(name, size, start)| {
            (format!("model.layers.{layer}.{name}.weight"), size, start)
        }));
    }
    weights
}
