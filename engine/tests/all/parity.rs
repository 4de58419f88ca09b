//! The forward against Hugging Face transformers: golden files that `parity/make.py` wrote.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::gguf::as_gguf;
use crate::common::*;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use onegen_engine::{
    DeviceName, Kernels, KvType, LoadOptions, Model, SequenceInput, SpanKind, WeightType,
};
use serde_json::json;
use tempfile::TempDir;

const FAMILIES: [&str; 5] = ["llama2", "llama3.1", "mistral", "qwen2", "qwen3"];

fn golden_dir(family: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/parity").join(family)
}

/// The checkpoint together with a tokenizer, which the golden files do not contain.
fn checkpoint(family: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden_dir(family).join(name), dir.path().join(name)).unwrap();
    }
    write_tokenizer(dir.path());
    dir
}

fn with_weights(dir: &TempDir, weights: WeightType) -> Arc<Model> {
    let options = LoadOptions {
        weights: Some(weights),
        kv: KvType::F32,
        ..LoadOptions::default()
    };
    load_with(dir, &options)
}

fn with_kernels(dir: &TempDir, kernels: Kernels) -> Arc<Model> {
    let options = LoadOptions {
        kernels,
        kv: KvType::F32,
        ..LoadOptions::default()
    };
    load_with(dir, &options)
}

fn load_with(dir: &TempDir, options: &LoadOptions) -> Arc<Model> {
    Arc::new(Model::load(dir.path(), options).unwrap())
}

struct Golden {
    ids: Vec<u32>,
    positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
}

impl Golden {
    fn load(family: &str) -> Self {
        Self::read(family, "golden.safetensors")
    }

    fn read(family: &str, name: &str) -> Self {
        let file = golden_dir(family).join(name);
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let integers = |name: &str| tensors[name].to_vec1::<i64>().unwrap();
        Self {
            ids: integers("ids").into_iter().map(|id| id as u32).collect(),
            positions: integers("positions")
                .iter()
                .map(|&at| at as usize)
                .collect(),
            logits: tensors["logits"].to_vec2().unwrap(),
            hidden: tensors["hidden"].to_vec2().unwrap(),
        }
    }

    fn check(&self, what: &str, hidden: &[Vec<f32>], logits: &[Vec<f32>]) {
        for (row, at) in self.positions.iter().enumerate() {
            let apart = difference(&self.logits[row], &logits[*at]);
            assert!(apart < 1e-4, "{what}: logits at {at} are {apart} apart");
            let cosine = cosine(&self.hidden[row], &hidden[*at]);
            assert!(cosine > 0.999999, "{what}: cosine {cosine} at {at}");
        }
    }
}

#[test]
fn states_and_logits_are_those_of_transformers() {
    for family in FAMILIES {
        let golden = Golden::load(family);
        for kernels in [Kernels::Own, Kernels::Candle] {
            let model = with_kernels(&checkpoint(family), kernels);
            let (hidden, logits) = clean_forward(&model, &golden.ids);
            golden.check(&format!("{family}, {kernels:?}"), &hidden, &logits);
        }
    }
}

/// The checkpoint with block attention, and the control tokens that `make_blocks.py` wrote.
fn checkpoint_with_blocks(family: &str) -> TempDir {
    let dir = checkpoint(family);
    let control = CONTROL.iter().zip([313, 314, 315, 316, 311, 310, 312]);
    let mut added: Vec<_> = control
        .map(|(token, id)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    added.sort_by_key(|token| token["id"].as_u64());
    let words = (0..310).map(|id| (format!("w{id}"), json!(id)));
    write_json(
        dir.path(),
        "tokenizer.json",
        &json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null, "decoder": null,
            "model": {
                "type": "WordLevel", "unk_token": "w0",
                "vocab": words.collect::<serde_json::Map<_, _>>(),
            },
        }),
    );
    set_block_attention(dir.path());
    dir
}

#[test]
fn passage_blocks_give_the_states_and_logits_of_transformers_under_their_mask() {
    for family in FAMILIES {
        let golden = Golden::read(family, "blocks.safetensors");
        for kernels in [Kernels::Own, Kernels::Candle] {
            let model = with_kernels(&checkpoint_with_blocks(family), kernels);
            let what = format!("{family} with blocks, {kernels:?}");
            let (hidden, logits) = clean_forward(&model, &golden.ids);
            golden.check(&what, &hidden, &logits);
            for chunk in [1, 7, 64] {
                let in_parts = in_chunks(&model, &golden.ids, chunk);
                golden.check(&format!("{what} by {chunk}"), &in_parts.0, &in_parts.1);
                // candle's products depend on the batch.
                let is_whole = in_parts == (hidden.clone(), logits.clone());
                assert!(is_whole || kernels == Kernels::Candle, "{what} by {chunk}");
            }
        }
        // The mask matters: at the end of the first block the model would see more without it.
        let full = clean_forward(
            &with_kernels(&checkpoint(family), Kernels::Own),
            &golden.ids,
        )
        .1;
        let apart = difference(&golden.logits[2], &full[golden.positions[2]]);
        assert!(apart > 1e-2, "{family}: {apart}");
    }
}

/// On the CPU in f32, or on another device:
/// `ONEGEN_DEVICE=cuda cargo test --release --features cuda -p onegen-engine --test all parity::`.
#[test]
fn states_and_logits_on_the_device_are_those_of_transformers() {
    let device =
        std::env::var("ONEGEN_DEVICE").map_or(DeviceName::Cpu, |name| name.parse().unwrap());
    for family in FAMILIES {
        let golden = Golden::load(family);
        let options = LoadOptions {
            device,
            weights: Some(WeightType::F32),
            kv: KvType::F32,
            ..LoadOptions::default()
        };
        let model = load_with(&checkpoint(family), &options);
        let (hidden, logits) = clean_forward(&model, &golden.ids);
        golden.check(&format!("{family}, {device}"), &hidden, &logits);
        let golden = Golden::read(family, "blocks.safetensors");
        let model = load_with(&checkpoint_with_blocks(family), &options);
        let (hidden, logits) = clean_forward(&model, &golden.ids);
        golden.check(&format!("{family} with blocks, {device}"), &hidden, &logits);
    }
}

#[test]
fn a_gguf_file_gives_the_states_and_logits_of_transformers() {
    for family in FAMILIES {
        let golden = Golden::load(family);
        let gguf = as_gguf(checkpoint(family).path(), GgmlDType::BF16);
        for kernels in [Kernels::Own, Kernels::Candle] {
            let model = with_kernels(&gguf, kernels);
            let (hidden, logits) = clean_forward(&model, &golden.ids);
            golden.check(&format!("{family}, {kernels:?}"), &hidden, &logits);
        }
    }
}

#[test]
fn a_prompt_forwarded_in_chunks_beside_another_gives_the_same_bits() {
    for family in FAMILIES {
        let golden = Golden::load(family);
        let dir = checkpoint(family);
        let whole = clean_forward(&with_kernels(&dir, Kernels::Own), &golden.ids);
        for chunk in [1, 7, 64] {
            let own = in_chunks(&with_kernels(&dir, Kernels::Own), &golden.ids, chunk);
            assert!(own == whole, "{family} by {chunk}");
            // candle's products depend on the batch, but not by much.
            let (hidden, logits) =
                in_chunks(&with_kernels(&dir, Kernels::Candle), &golden.ids, chunk);
            golden.check(&format!("{family} by {chunk}"), &hidden, &logits);
        }
    }
}

#[test]
fn quantised_weights_give_nearly_the_same_states() {
    for (family, weights, least) in [
        ("qwen2", WeightType::Q8_0, 0.99),
        ("qwen3", WeightType::Q8_0, 0.99),
        ("llama2", WeightType::F16, 0.99999),
    ] {
        let golden = Golden::load(family);
        let model = with_weights(&checkpoint(family), weights);
        let (hidden, _) = clean_forward(&model, &golden.ids);
        for (row, at) in golden.positions.iter().enumerate() {
            let cosine = cosine(&golden.hidden[row], &hidden[*at]);
            assert!(cosine > least, "{family} in {weights:?}: {cosine} at {at}");
        }
        let by_seven = in_chunks(&model, &golden.ids, 7);
        assert!(by_seven == clean_forward(&model, &golden.ids), "{family}");
    }
}

#[test]
fn weights_of_4_bits_give_nearly_the_logits_of_the_numbers_that_they_are() {
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 300).collect();
    for (weights, element) in [
        // The scales and minima of `Q4_K` are fitted better than candle fits them, so these are other numbers.
        (WeightType::Q4_K, None),
        (WeightType::Q4_1, Some(GgmlDType::Q4_1)),
        (WeightType::Q4_0, Some(GgmlDType::Q4_0)),
    ] {
        for family in [Family::Llama, Family::Qwen2] {
            let what = format!("{family:?} in {weights:?}");
            let dir = family.write_sized(WIDE, 3);
            let (_, exact) = clean_forward(&load_kept_in(dir.path(), KvType::F32), &ids);
            let model = with_weights(&dir, weights);
            let whole = clean_forward(&model, &ids);
            assert!(in_chunks(&model, &ids, 7) == whole, "{what}");
            let least = |wanted: &[Vec<f32>]| {
                let cosines = wanted.iter().zip(&whole.1).map(|(a, b)| cosine(a, b));
                cosines.fold(1f32, f32::min)
            };
            assert!(least(&exact) > 0.85, "{what}: {}", least(&exact));
            let Some(element) = element else { continue };
            round_projections(&dir.path().join("model.safetensors"), element);
            let (_, rounded) = clean_forward(&load_kept_in(dir.path(), KvType::F32), &ids);
            // The remaining difference comes from the 8 bits of activations, embedding and head.
            assert!(least(&rounded) > 0.998, "{what}: {}", least(&rounded));
        }
    }
}

/// Rounds the projections as a block type rounds them.
fn round_projections(file: &Path, element: GgmlDType) {
    let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.ends_with("proj.weight") {
            let rounded = QTensor::quantize(tensor, element).unwrap();
            *tensor = rounded.dequantize(&Device::Cpu).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, file).unwrap();
}

/// States and logits at every position, forwarded `chunk` ids at a time beside a second sequence.
fn in_chunks(model: &Arc<Model>, ids: &[u32], chunk: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (mut cache, mut other) = (model.new_cache(), model.new_cache());
    let (mut hidden, mut logits) = (vec![], vec![]);
    for part in ids.chunks(chunk) {
        let all: Vec<usize> = (0..part.len()).collect();
        let kinds = vec![SpanKind::Prompt; part.len()];
        let mut outputs = model
            .forward(&mut [
                SequenceInput {
                    ids: &[5],
                    kinds: &[SpanKind::Prompt],
                    cache: &mut other,
                    hidden_at: &[],
                    logits_at: &[0],
                },
                SequenceInput {
                    ids: part,
                    kinds: &kinds,
                    cache: &mut cache,
                    hidden_at: &all,
                    logits_at: &all,
                },
            ])
            .unwrap();
        let own = outputs.remove(1);
        hidden.extend(own.hidden);
        logits.extend(own.logits);
    }
    (hidden, logits)
}

#[test]
fn a_checkpoint_in_shards_is_the_same_model() {
    let golden = Golden::load("llama2");
    let dir = checkpoint("llama2");
    let whole = dir.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&whole, &Device::Cpu).unwrap();
    fs::remove_file(whole).unwrap();
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort();
    let mut weight_map = HashMap::new();
    for (number, shard) in names.chunks(names.len().div_ceil(3)).enumerate() {
        let file = format!("model-{:05}-of-00003.safetensors", number + 1);
        let held: HashMap<_, _> = shard
            .iter()
            .map(|n| (n.clone(), tensors[n].clone()))
            .collect();
        candle_core::safetensors::save(&held, dir.path().join(&file)).unwrap();
        weight_map.extend(shard.iter().map(|name| (name.clone(), file.clone())));
    }
    write_json(
        dir.path(),
        "model.safetensors.index.json",
        &json!({ "weight_map": weight_map }),
    );
    let (hidden, logits) = clean_forward(&with_kernels(&dir, Kernels::Own), &golden.ids);
    golden.check("llama2 in shards", &hidden, &logits);
}

#[test]
fn a_tied_embedding_may_be_stored_as_the_head_alone() {
    let golden = Golden::load("qwen2");
    let dir = checkpoint("qwen2");
    let file = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let embedding: Tensor = tensors.remove("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.dtype(), DType::BF16);
    tensors.insert("lm_head.weight".into(), embedding);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let (hidden, logits) = clean_forward(&with_kernels(&dir, Kernels::Own), &golden.ids);
    golden.check("qwen2, head alone", &hidden, &logits);
}
