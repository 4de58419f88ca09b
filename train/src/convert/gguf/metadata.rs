//! The metadata of a model that does not come from a GGUF file.

use std::path::Path;

use anyhow::{Result, ensure};
use onegen_engine::{Architecture, ModelConfig, RopeScaling};

use super::file::Entries;

/// Tensors begin at multiples of this many bytes, the default of the format.
pub(super) const ALIGNMENT: usize = 32;

/// llama.cpp's name of the family.
pub(super) fn architecture(config: &ModelConfig) -> &'static str {
    match config.architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    }
}

/// All metadata except the tokenizer's.
///
/// # Errors
/// llama.cpp does not support the model.
pub(super) fn entries(config: &ModelConfig, out: &Path) -> Result<Entries> {
    let architecture = architecture(config);
    ensure!(
        architecture == "llama" || config.sliding_window.is_none(),
        "llama.cpp knows no attention that is limited to a window in {architecture} models"
    );
    let mut entries = Entries::default();
    entries.set_text("general.architecture", architecture);
    let name = out.file_stem().unwrap_or_default().to_string_lossy();
    entries.set_text("general.name", &name);
    let sizes = [
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ];
    let window = config.sliding_window;
    let window = window.map(|window| ("attention.sliding_window", window.positions));
    for (key, size) in sizes.into_iter().chain(window) {
        entries.set_u32(&format!("{architecture}.{key}"), size as u32);
    }
    for (key, number) in [
        (
            "attention.layer_norm_rms_epsilon",
            config.rms_norm_eps as f32,
        ),
        ("rope.freq_base", config.rope_theta),
    ] {
        entries.set_f32(&format!("{architecture}.{key}"), number);
    }
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        entries.set_text(&format!("{architecture}.rope.scaling.type"), "linear");
        entries.set_f32(&format!("{architecture}.rope.scaling.factor"), factor);
    }
    Ok(entries)
}
