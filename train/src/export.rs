//! The trained model as a Hugging Face style directory.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::{Value, json};

use crate::model::Model;
use crate::tokenizer::{CONTROL, Vocabulary};

/// A template of user and model turns. It leaves out system prompts, because the model was trained
/// without them.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'user' %}<|user|>{{ message.content }}{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Writes weights (f16), configuration and tokenizer.
pub fn export(model: &Model, vocabulary: &Vocabulary, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    model.save(&directory.join("model.safetensors"), DType::F16)?;
    vocabulary.save(&directory.join("tokenizer.json"))?;
    let shape = &model.shape;
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "torch_dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_attention_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "use_sliding_window": false,
        "sliding_window": null,
        "bos_token_id": null,
        "eos_token_id": vocabulary.end,
    });
    let onegen = if vocabulary.continues.is_some() {
        json!({
            "query_token": "[LK]", "passage_token": "[SE]", "embed_template": "{title}: {text}",
            "prompt_template": null, "add_bos": false,
            "linking": { "mention_open": "<MENTION>", "mention_close": "</MENTION>", "continue_token": "[_CONTINUE_]", "max_text_tokens": 128 },
        })
    } else {
        json!({
            "query_token": "[RQ]", "passage_token": "[RD]", "passage_open": "<paragraph>", "passage_close": "</paragraph>",
            "passage_attention": "block",
            "splice_template": "{title}: {text}", "embed_template": "{title}: {text}", "add_bos": false, "max_retrievals": 5,
        })
    };
    let files: [(&str, Value); 4] = [
        ("config.json", config),
        (
            "generation_config.json",
            json!({ "eos_token_id": vocabulary.end, "do_sample": false }),
        ),
        (
            "tokenizer_config.json",
            json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": CONTROL[0], "chat_template": CHAT_TEMPLATE, "model_max_length": shape.max_position_embeddings }),
        ),
        ("onegen.json", onegen),
    ];
    for (name, value) in files {
        let path = directory.join(name);
        std::fs::write(&path, serde_json::to_string_pretty(&value)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
