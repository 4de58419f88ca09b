//! Compares models in GGUF files with the directories that they were made from.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::gguf::{GgufFile, as_gguf, count, rounded, text};
use crate::common::*;
use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use onegen_engine::{
    Architecture, FinishReason, Kernels, KvType, LoadError, LoadOptions, Model, WeightType,
};
use serde_json::json;

const IDS: [u32; 12] = [5, 17, 200, 3, 3, 90, 41, 260, 7, 299, 1, 60];

fn with(path: &Path, weights: Option<WeightType>, kernels: Kernels) -> Arc<Model> {
    let options = LoadOptions {
        weights,
        kv: KvType::F32,
        kernels,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(path, &options).unwrap())
}

fn error(path: &Path) -> LoadError {
    Model::load(path, &LoadOptions::default()).unwrap_err()
}

/// The error of a tiny model's file after `change`.
fn error_after(change: impl FnOnce(&mut GgufFile)) -> LoadError {
    let dir = Family::Llama.write(1);
    let mut file = GgufFile::new(dir.path(), GgmlDType::F32);
    change(&mut file);
    let path = dir.path().join("changed.gguf");
    file.write(&path);
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    error(&path)
}

#[test]
fn a_gguf_file_gives_the_bits_of_the_directory_that_it_was_made_of() {
    for family in FAMILIES {
        let dir = family.write(3);
        let gguf = as_gguf(dir.path(), GgmlDType::F32);
        for kernels in [Kernels::Own, Kernels::Candle] {
            let wanted = clean_forward(&with(dir.path(), None, kernels), &IDS);
            let got = clean_forward(&with(gguf.path(), None, kernels), &IDS);
            if family != Family::Llama31 {
                assert!(got == wanted, "{family:?}, {kernels:?}");
            }
            // The same frequencies, but divided by factors that were rounded.
            for (got, wanted) in got.1.iter().zip(&wanted.1) {
                let apart = difference(wanted, got);
                assert!(apart < 1e-5, "{family:?}, {kernels:?}: {apart}");
            }
        }
    }
}

#[test]
fn the_shape_is_that_of_config_json() {
    for family in FAMILIES {
        let dir = family.write(3);
        let mut wanted = load(dir.path()).config().clone();
        let gguf = as_gguf(dir.path(), GgmlDType::F16);
        let got = load(gguf.path()).config().clone();
        // Kept elsewhere, or otherwise.
        wanted.eos_token_ids.clone_from(&got.eos_token_ids);
        wanted.rms_norm_eps = got.rms_norm_eps;
        if family == Family::Llama31 {
            wanted.rope_scaling = got.rope_scaling.clone();
        }
        assert_eq!(got, wanted);
    }
    let mistral = as_gguf(Family::Mistral.write(3).path(), GgmlDType::F32);
    let config = load(mistral.path()).config().clone();
    assert_eq!(config.architecture, Architecture::Mistral);
}

#[test]
fn blocks_of_8_bits_are_kept_bit_for_bit() {
    let q8_0 = Some(WeightType::Q8_0);
    for family in FAMILIES {
        let dir = family.write(4);
        let gguf = as_gguf(dir.path(), GgmlDType::Q8_0);
        let same = rounded(dir.path(), GgmlDType::Q8_0);
        if family != Family::Llama31 {
            let wanted = clean_forward(&with(same.path(), q8_0, Kernels::Own), &IDS);
            let got = clean_forward(&with(gguf.path(), q8_0, Kernels::Own), &IDS);
            assert!(got == wanted, "{family:?}");
            let wanted = clean_forward(&with(same.path(), None, Kernels::Candle), &IDS);
            let got = clean_forward(&with(gguf.path(), None, Kernels::Candle), &IDS);
            assert!(got == wanted, "{family:?} in candle");
        }
    }
}

#[test]
fn blocks_of_every_type_are_read_as_ggml_means_them() {
    let dir = Family::Llama.write_sized(WIDE, 1);
    let ids = &IDS;
    for element in [
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ] {
        let gguf = as_gguf(dir.path(), element);
        let same = rounded(dir.path(), element);
        let stored = match element {
            GgmlDType::F16 => WeightType::F16,
            GgmlDType::BF16 => WeightType::Bf16,
            _ => WeightType::Q8_0,
        };
        for (asked, kept) in [(Some(WeightType::F32), WeightType::F32), (None, stored)] {
            let got = clean_forward(&with(gguf.path(), asked, Kernels::Own), ids);
            let wanted = clean_forward(&with(same.path(), Some(kept), Kernels::Own), ids);
            assert!(got == wanted, "{element:?} as {asked:?}");
        }
    }
}

#[test]
fn blocks_of_4_bits_are_kept_as_they_are() {
    let dir = Family::Llama.write_sized(WIDE, 1);
    for (element, weights) in [
        (GgmlDType::Q4_0, WeightType::Q4_0),
        (GgmlDType::Q4_1, WeightType::Q4_1),
        (GgmlDType::Q4K, WeightType::Q4_K),
    ] {
        let gguf = as_gguf(dir.path(), element);
        let same = rounded(dir.path(), element);
        let f32 = Some(WeightType::F32);
        let (_, wanted) = clean_forward(&with(same.path(), f32, Kernels::Own), &IDS);
        let (_, got) = clean_forward(&with(gguf.path(), f32, Kernels::Own), &IDS);
        assert!(got == wanted, "{element:?}");
        // They differ only by the activations' 8 bits. If the weights had been quantised again, they
        // would differ much more.
        let kept = clean_forward(&with(gguf.path(), None, Kernels::Own), &IDS);
        for (kept, wanted) in kept.1.iter().zip(&wanted) {
            let cosine = cosine(kept, wanted);
            assert!(cosine > 0.998, "{element:?}: {cosine}");
        }
        // Asked for by name, the projections are the same, and embedding and head are in 8 bits.
        let named = clean_forward(&with(gguf.path(), Some(weights), Kernels::Own), &IDS);
        assert!(named != kept, "{element:?}");
        for (named, kept) in named.1.iter().zip(&kept.1) {
            let cosine = cosine(named, kept);
            assert!(cosine > 0.999, "{element:?}: {cosine}");
        }
    }
}

#[test]
fn a_stack_of_several_types_of_4_bits_is_kept_in_8() {
    let dir = Family::Llama.write_sized(WIDE, 1);
    let change = |file: &mut GgufFile| {
        for layer in 0..3 {
            let name = format!("blk.{layer}.attn_k.weight");
            let keys = file.tensors[&name].dequantize(&Device::Cpu).unwrap();
            file.put(&name, &keys, GgmlDType::Q4_1);
        }
    };
    let mut file = GgufFile::new(dir.path(), GgmlDType::Q4_0);
    change(&mut file);
    let whole = as_gguf(dir.path(), GgmlDType::Q4_0);
    file.write(&whole.path().join("tiny.gguf"));
    let f32 = with(whole.path(), Some(WeightType::F32), Kernels::Own);
    let (_, exact) = clean_forward(&f32, &IDS);
    let (_, kept) = clean_forward(&with(whole.path(), None, Kernels::Own), &IDS);
    for (kept, exact) in kept.iter().zip(&exact) {
        let cosine = cosine(kept, exact);
        assert!(cosine > 0.998, "{cosine}");
    }
}

#[test]
fn a_conversation_runs_and_retrieves_from_a_gguf_file() {
    let gguf = as_gguf(Family::Qwen3.write(5).path(), GgmlDType::Q8_0);
    let model = load(gguf.path());
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    let completion = run(&engine, retrieving(&model, "a", 20, 1));
    assert_eq!(completion.summary.retrievals.len(), 1);
}

#[test]
fn its_directory_stands_for_the_only_file_in_it() {
    let dir = Family::Llama.write(1);
    let alone = as_gguf(dir.path(), GgmlDType::F32);
    let file = alone.path().join("tiny.gguf");
    let (by_directory, by_name) = (load(alone.path()), load(&file));
    assert_eq!(by_directory.name(), "tiny");
    assert_eq!(by_directory.fingerprints(), by_name.fingerprints());
    // Beside safetensors a GGUF file is used only if it is named.
    fs::copy(&file, dir.path().join("tiny.gguf")).unwrap();
    assert_ne!(load(dir.path()).name(), "tiny");
    assert_eq!(load(&dir.path().join("tiny.gguf")).name(), "tiny");
    fs::copy(&file, alone.path().join("other.gguf")).unwrap();
    assert!(matches!(
        error(alone.path()),
        LoadError::SeveralModels { count: 2, .. }
    ));
    let missing = alone.path().join("missing.gguf");
    assert!(error(&missing).to_string().contains("missing.gguf"));
}

#[test]
fn files_beside_it_go_before_what_it_says() {
    let dir = Family::Llama.write(1);
    let gguf = as_gguf(dir.path(), GgmlDType::F32);
    let own = load(gguf.path());
    let asked = question(&own, " Lima");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(dir.path().join(name), gguf.path().join(name)).unwrap();
    }
    let beside = load(gguf.path());
    let of_directory = load(dir.path());
    assert_eq!(
        beside.fingerprints().tokenizer,
        of_directory.fingerprints().tokenizer
    );
    assert_eq!(beside.fingerprints().model, own.fingerprints().model);
    assert_ne!(
        beside.fingerprints().tokenizer,
        own.fingerprints().tokenizer
    );
    // Both spell the same, and both have the template.
    assert_eq!(question(&beside, " Lima"), asked);
    write_json(
        gguf.path(),
        "tokenizer_config.json",
        &json!({ "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}" }),
    );
    assert_ne!(question(&load(gguf.path()), " Lima"), asked);
}

#[test]
fn fingerprints_change_with_what_they_stand_for() {
    let first = as_gguf(Family::Llama.write(1).path(), GgmlDType::F32);
    let first = load(first.path()).fingerprints().clone();
    let other_weights = as_gguf(Family::Llama.write(2).path(), GgmlDType::F32);
    let other_weights = load(other_weights.path()).fingerprints().clone();
    assert_ne!(other_weights.model, first.model);
    assert_eq!(other_weights.tokenizer, first.tokenizer);
    let other = as_gguf(Family::Llama.write(1).path(), GgmlDType::F32);
    let mut file = GgufFile::new(Family::Llama.write(1).path(), GgmlDType::F32);
    file.set("tokenizer.ggml.pre", text("llama-bpe"));
    file.write(&other.path().join("tiny.gguf"));
    let other_cuts = load(other.path()).fingerprints().clone();
    assert_ne!(other_cuts.tokenizer, first.tokenizer);
}

#[test]
fn what_is_not_supported_is_said() {
    let refused = |what: &str, change: &dyn Fn(&mut GgufFile)| {
        let error = error_after(change);
        assert!(
            matches!(error, LoadError::Unsupported { .. }),
            "{what}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains("changed.gguf"), "{message}");
        assert!(message.contains(what), "{message}");
    };
    refused("gemma", &|file| {
        file.set("general.architecture", text("gemma"));
    });
    refused("yarn", &|file| {
        file.set("llama.rope.scaling.type", text("yarn"));
    });
    refused("rope.dimension_count", &|file| {
        file.set("llama.rope.dimension_count", count(4));
    });
    refused("several files", &|file| file.set("split.count", count(3)));
    refused("\"t5\"", &|file| {
        file.set("tokenizer.ggml.model", text("t5"))
    });
    refused("falcon", &|file| {
        file.set("tokenizer.ggml.pre", text("falcon"))
    });
    refused("tokenizer.ggml.pre", &|file| {
        file.metadata.remove("tokenizer.ggml.pre");
    });
    refused("blk.0.ffn_gate_inp.weight", &|file| {
        let router = Tensor::zeros((8, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        file.put("blk.0.ffn_gate_inp.weight", &router, GgmlDType::F32);
    });
}

#[test]
fn what_is_missing_or_contradictory_is_named() {
    let named = |what: &str, change: &dyn Fn(&mut GgufFile)| {
        let message = error_after(change).to_string();
        assert!(message.contains("changed.gguf"), "{message}");
        assert!(message.contains(what), "{message}");
    };
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.attention.head_count",
        "llama.context_length",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ] {
        named(key, &|file| {
            file.metadata.remove(key);
        });
    }
    for name in [
        "token_embd.weight",
        "output_norm.weight",
        "blk.2.attn_k.weight",
    ] {
        named(name, &|file| {
            file.tensors.remove(name);
        });
    }
    named("is a string", &|file| {
        file.set("llama.block_count", text("three"));
    });
    named("holds 30 tensors", &|file| {
        file.set("llama.block_count", count(1_000_000));
    });
    named("whole heads", &|file| {
        file.set("llama.attention.key_length", count(24));
        file.set("llama.attention.value_length", count(24));
    });
    named("gate_proj", &|file| {
        file.set("llama.feed_forward_length", count(47));
    });
    named("299 types", &|file| {
        let types = vec![candle_core::quantized::gguf_file::Value::I32(1); 299];
        let types = candle_core::quantized::gguf_file::Value::Array(types);
        file.set("tokenizer.ggml.token_type", types);
    });
    named("eos_token_id", &|file| {
        file.set("tokenizer.ggml.eos_token_id", count(100_000));
    });
}

#[test]
fn a_control_token_that_the_file_lacks_is_named() {
    let gguf = as_gguf(Family::Llama.write(1).path(), GgmlDType::F32);
    fs::remove_file(gguf.path().join("onegen.json")).unwrap();
    match error(gguf.path()) {
        LoadError::MissingToken { path, token, .. } => {
            assert_eq!(token, "[Question Representation]");
            assert!(path.ends_with("tiny.gguf"));
        }
        other => panic!("{other}"),
    }
}

/// A file that neither candle nor this test has written.
#[test]
fn a_file_of_llama_cpp_loads_and_generates() {
    let Some(file) = shared_data("llama-2-tiny-random.gguf") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::copy(file, dir.path().join("llama-2-tiny-random.gguf")).unwrap();
    let plain = error(dir.path());
    assert!(matches!(plain, LoadError::MissingToken { .. }), "{plain}");
    write_json(
        dir.path(),
        "onegen.json",
        &json!({
            "query_token": "<0x01>", "passage_token": "<0x02>",
            "passage_open": "<0x03>", "passage_close": "<0x04>",
            "prompt_template": "Question: {input}\nAnswer:", "add_bos": true,
        }),
    );
    for weights in [None, Some(WeightType::F32), Some(WeightType::Bf16)] {
        let model = with(dir.path(), weights, Kernels::Own);
        assert_eq!(model.name(), "llama-2-tiny-random");
        assert_eq!(model.tokens().vocabulary(), 32_000);
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let completion = run(&engine, retrieving(&model, "a", 30, 1));
        assert_eq!(completion.summary.retrievals.len(), 1);
    }
    let own = with(dir.path(), Some(WeightType::F32), Kernels::Own);
    let candle = with(dir.path(), None, Kernels::Candle);
    let (_, wanted) = clean_forward(&candle, &IDS);
    for (got, wanted) in clean_forward(&own, &IDS).1.iter().zip(&wanted) {
        let apart = difference(wanted, got);
        assert!(apart < 1e-4, "{apart}");
    }
}

/// A real model: `ONEGEN_BASE=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p onegen-engine --test all gguf::`
#[test]
fn smollm2_answers_as_in_transformers_and_embeds() {
    let Some(dir) = smollm2() else {
        return;
    };
    let exact = with(dir.path(), Some(WeightType::F32), Kernels::Own);
    let asked = "What is the capital of France?";
    let (_, logits) = clean_forward(&exact, &question(&exact, asked));
    // transformers 5.24.0 in f32, `from_pretrained(…, gguf_file=…)`.
    for (id, logit) in [
        (504, 25.3254),
        (60, 25.2433),
        (15319, 24.9424),
        (7026, 24.3146),
    ] {
        let got = logits[logits.len() - 1][id];
        assert!((got - logit).abs() < 1e-3, "{id}: {got} instead of {logit}");
    }
    let mut capital = request(&exact, "a", asked, 20);
    capital.sampling.logit_bias.clear();
    let completion = run(&engine(&exact, None), capital);
    assert_eq!(completion.text, "The capital of France is Paris.");
    assert_eq!(completion.summary.finish_reason, FinishReason::Stop);

    let kept = load(dir.path());
    let (_, rounded) = clean_forward(&kept, &question(&kept, asked));
    for (rounded, exact) in rounded.iter().zip(&logits) {
        // The activations of this model lose more at 8 bits than those of random models.
        let cosine = cosine(rounded, exact);
        assert!(cosine > 0.95, "{cosine}");
    }
    let engine = engine(&kept, Some(Shelf::new(vec![peru()])));
    let completion = run(&engine, retrieving(&kept, "a", 20, 1));
    assert_eq!(completion.summary.retrievals.len(), 1);
    let (peru, lima) = (peru(), ("Lima", "Lima lies on the coast."));
    let texts = [(peru.title.as_str(), peru.text.as_str()), lima];
    let embeddings = kept.embed_texts(&texts).unwrap();
    let embeddings: Vec<_> = embeddings.into_iter().map(Result::unwrap).collect();
    assert_eq!(embeddings[0].len(), 576);
    assert_ne!(embeddings[0], embeddings[1]);
}

/// The ids of a file's tokens by spelling.
fn id_in(file: &GgufFile, token: &str) -> usize {
    let tokens = file.metadata["tokenizer.ggml.tokens"].to_vec().unwrap();
    tokens
        .iter()
        .position(|one| one.to_string().unwrap() == token)
        .unwrap()
}

#[test]
fn what_the_template_writes_behind_an_answer_ends_a_turn_whatever_the_file_calls_its_end() {
    let dir = Family::Llama.write(1);
    // 3 is a control token; some converters write 1, a word.
    for kind in [3, 1] {
        let gguf = as_gguf(dir.path(), GgmlDType::F32);
        let mut file = GgufFile::new(dir.path(), GgmlDType::F32);
        let (end, other) = (id_in(&file, "<|end|>"), id_in(&file, "[RD]"));
        file.set("tokenizer.ggml.eos_token_id", count(other));
        let mut types = file.metadata["tokenizer.ggml.token_type"]
            .to_vec()
            .unwrap()
            .clone();
        types[end] = candle_core::quantized::gguf_file::Value::I32(kind);
        file.set(
            "tokenizer.ggml.token_type",
            candle_core::quantized::gguf_file::Value::Array(types),
        );
        file.write(&gguf.path().join("tiny.gguf"));
        let model = load(gguf.path());
        let ends: Vec<_> = model.tokens().eos_ids().collect();
        assert!(
            ends.contains(&(end as u32)) && ends.contains(&(other as u32)),
            "{ends:?}"
        );
        let mut request = request(&model, "a", "What?", 20);
        request.sampling.logit_bias = [(end as u32, 100.0)].into();
        let completion = run(&engine(&model, None), request);
        assert_eq!(completion.summary.finish_reason, FinishReason::Stop);
        assert_eq!(completion.text, "");
    }
}

/// Where a name stands in a file's bytes, behind its length.
fn name_at(bytes: &[u8], name: &str) -> usize {
    let written = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
    bytes
        .windows(written.len())
        .position(|one| one == written)
        .unwrap()
        + 8
}

#[test]
fn tensors_that_overlap_and_keys_that_come_twice_are_refused() {
    let dir = Family::Llama.write(1);
    let mut file = GgufFile::new(dir.path(), GgmlDType::F32);
    file.set("general.note_1", text("one"));
    file.set("general.note_2", text("two"));
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let path = dir.path().join("changed.gguf");
    let bytes = file.bytes();
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        let error = error(&path).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    // A tensor's description: its name, the number of its sizes, the sizes, its type, its place.
    let place_at = |name: &str| {
        let sizes_at = name_at(&bytes, name) + name.len();
        let sizes = u32::from_le_bytes(bytes[sizes_at..sizes_at + 4].try_into().unwrap());
        sizes_at + 4 + 8 * sizes as usize + 4
    };
    let (one, other) = ("blk.0.attn_k.weight", "blk.0.attn_v.weight");
    let mut overlapping = bytes.clone();
    overlapping.copy_within(place_at(one)..place_at(one) + 8, place_at(other));
    refused(&overlapping, &[one, other, "overlap"]);
    let mut twice = bytes.clone();
    let at = name_at(&bytes, "general.note_2") + "general.note_".len();
    twice[at] = b'1';
    refused(&twice, &["general.note_1", "twice"]);
    fs::write(&path, &bytes).unwrap();
    load(&path);
}
