//! One layer's weights.

use super::matrix::Matrix;
use super::packing::pack;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::model::WeightType;
use crate::model::checkpoint::Checkpoint;

/// The norms, and the packed matrices.
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Query, key and value projections, one below the other.
    pub(super) qkv: Matrix,
    pub(super) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub(super) output: Matrix,
    pub(super) mlp_norm: Vec<f32>,
    /// Gate and up projections, one below the other.
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}

impl Layer {
    pub(super) fn load(
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
            qk_norm: if config.qk_norm {
                Some((head_norm("q")?, head_norm("k")?))
            } else {
                None
            },
            output,
            mlp_norm: weights.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate_up: pack(weights, weight_type, &gate_up, hidden)?,
            down: pack(weights, weight_type, &down, inner)?,
        })
    }
}
