//! A OneGen model of random weights, small enough to be made anew in every test.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const HIDDEN: usize = 32;
const HEAD: usize = 16;
const INNER: usize = 48;
const SPECIALS: [&str; 7] = [
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "[RQ]",
    "[RD]",
    "<paragraph>",
    "</paragraph>",
];

/// Positions that the model can hold.
pub(crate) const CONTEXT: usize = 128;

/// Writes a model directory: a Qwen3 of one layer over bytes.
pub(crate) fn write_model(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).unwrap();
    let write = |name: &str, value: &Value| fs::write(dir.join(name), value.to_string()).unwrap();
    let vocabulary = 256 + SPECIALS.len();
    write(
        "config.json",
        &json!({
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": HEAD,
            "vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "eos_token_id": 258,
        }),
    );
    write("tokenizer.json", &tokenizer());
    let template =
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}<|assistant|>";
    write(
        "tokenizer_config.json",
        &json!({"chat_template": template, "eos_token": "<|end|>"}),
    );
    write(
        "onegen.json",
        &json!({
            "query_token": "[RQ]", "passage_token": "[RD]", "passage_open": "<paragraph>",
            "passage_close": "</paragraph>", "splice_template": "{title}: {text}",
            "embed_template": "{title}: {text}", "prompt_template": null, "add_bos": false, "max_retrievals": 5,
        }),
    );
    write_weights(&dir.join("model.safetensors"), vocabulary, seed);
}

/// Bytes as byte-level tokenizers spell them, without any merge.
fn tokenizer() -> Value {
    let visible = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let hidden = (0..256).filter(|byte| !visible(byte)).count() as u32;
    let spellings = (0..256)
        .filter(visible)
        .chain(256..256 + hidden)
        .filter_map(char::from_u32);
    let vocabulary: HashMap<String, usize> = spellings
        .enumerate()
        .map(|(id, c)| (c.to_string(), id))
        .collect();
    let special = |(id, content): (usize, &&str)| {
        json!({
            "id": 256 + id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocabulary, "merges": [],
        },
    })
}

fn write_weights(file: &Path, vocabulary: usize, seed: u64) {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".into(), vec![vocabulary, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
        (layer("input_layernorm"), vec![HIDDEN]),
        (layer("post_attention_layernorm"), vec![HIDDEN]),
        (layer("self_attn.q_norm"), vec![HEAD]),
        (layer("self_attn.k_norm"), vec![HEAD]),
        (layer("self_attn.q_proj"), vec![2 * HEAD, HIDDEN]),
        (layer("self_attn.k_proj"), vec![2 * HEAD, HIDDEN]),
        (layer("self_attn.v_proj"), vec![2 * HEAD, HIDDEN]),
        (layer("self_attn.o_proj"), vec![HIDDEN, 2 * HEAD]),
        (layer("mlp.gate_proj"), vec![INNER, HIDDEN]),
        (layer("mlp.up_proj"), vec![INNER, HIDDEN]),
        (layer("mlp.down_proj"), vec![HIDDEN, INNER]),
    ];
    let mut rng = StdRng::seed_from_u64(seed);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            let numbers = (0..shape.iter().product()).map(|_| rng.random_range(-0.5f32..0.5));
            numbers.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (
            name.clone(),
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}
