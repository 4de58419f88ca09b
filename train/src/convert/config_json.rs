//! `config.json` of a model, copied or made from a GGUF file's metadata.

use anyhow::{Result, bail, ensure};
use onegen_engine::{Architecture, ModelConfig, RopeScaling};
use serde_json::{Value, json};

use super::{NumberType, Source};

/// `config.json` with the type that the numbers are written in.
///
/// # Errors
/// The model's file is damaged, or transformers' format cannot express the model.
pub(super) fn config_json(source: &Source, number: NumberType) -> Result<Value> {
    let mut json = match source.json("config.json")? {
        Some(json) => json,
        None => described(source)?,
    };
    let key = match json.get("dtype") {
        Some(_) => "dtype",
        None => "torch_dtype",
    };
    json[key] = number.name().into();
    Ok(json)
}

fn described(source: &Source) -> Result<Value> {
    let config = source.config();
    let family = match config.architecture {
        Architecture::Llama => "Llama",
        Architecture::Mistral => "Mistral",
        Architecture::Qwen2 => "Qwen2",
        Architecture::Qwen3 => "Qwen3",
    };
    // transformers has one switch for the biases of all four projections; for Qwen2 it has none.
    let switched = config.architecture != Architecture::Qwen2;
    ensure!(
        !switched || config.qkv_bias == config.output_bias,
        "the model has biases on some projections of its attention only, which transformers' {family} has not"
    );
    let mut json = json!({
        "architectures": [format!("{family}ForCausalLM")],
        "model_type": family.to_lowercase(),
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": source.tokens.eos_ids().collect::<Vec<_>>(),
    });
    if switched {
        json["attention_bias"] = config.qkv_bias.into();
    }
    if let Some(window) = config.sliding_window {
        json["sliding_window"] = window.positions.into();
    }
    if let Some(scaling) = rope_scaling(config)? {
        json["rope_scaling"] = scaling;
    }
    Ok(json)
}

fn rope_scaling(config: &ModelConfig) -> Result<Option<Value>> {
    let llama3 = |factor: f32| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    Ok(match &config.rope_scaling {
        RopeScaling::Default => None,
        RopeScaling::Linear { factor } => Some(json!({ "rope_type": "linear", "factor": factor })),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => Some(json!({
            "rope_type": "llama3", "factor": factor,
            "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        })),
        // A GGUF file stores the factors that result from Llama 3's scaling. All Llama 3 models have the same
        // settings except for the largest factor.
        RopeScaling::Factors(factors) => {
            let largest = factors.iter().copied().fold(1.0, f32::max);
            let guess = ModelConfig {
                rope_scaling: llama3(largest),
                ..config.clone()
            };
            let pairs = guess
                .rotary_frequencies()
                .into_iter()
                .zip(config.rotary_frequencies());
            if pairs
                .into_iter()
                .any(|(a, b)| (a - b).abs() > 1e-4 * b.abs())
            {
                bail!(
                    "the model's rotary frequencies are divided by factors of its own, which transformers' \
                     config.json cannot say"
                );
            }
            Some(json!({
                "rope_type": "llama3", "factor": largest,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }))
        }
    })
}
