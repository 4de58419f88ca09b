//! Model directories that are not what they should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::common::*;
use candle_core::{DType, Device, Tensor};
use onegen_engine::{Kernels, KvType, LoadError, LoadOptions, Model, WeightType};
use serde_json::json;

fn error(dir: &Path) -> LoadError {
    Model::load(dir, &LoadOptions::default()).unwrap_err()
}

#[test]
fn a_missing_or_damaged_file_is_named() {
    for name in ["config.json", "tokenizer.json"] {
        let dir = Family::Llama.write(1);
        fs::remove_file(dir.path().join(name)).unwrap();
        let missing = error(dir.path());
        assert!(matches!(missing, LoadError::Read { .. }), "{missing}");
        assert!(missing.to_string().contains(name), "{missing}");
        fs::write(dir.path().join(name), "{ \"hidden_size\": ").unwrap();
        let damaged = error(dir.path()).to_string();
        assert!(damaged.contains(name), "{damaged}");
    }
    let dir = Family::Llama.write(1);
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(error(dir.path()), LoadError::NoWeights { .. }));
}

#[test]
fn truncated_weights_are_an_error() {
    let dir = Family::Llama.write(1);
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for len in [0, 5, 100, whole.len() / 2] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = error(dir.path());
        assert!(
            matches!(error, LoadError::DamagedWeights { .. }),
            "{len}: {error}"
        );
        assert!(
            error.to_string().contains("model.safetensors"),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_tensor_that_is_missing_or_of_another_shape_is_named() {
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "config.json", |c| {
        c["num_hidden_layers"] = 4.into()
    });
    match error(dir.path()) {
        LoadError::MissingTensor { name, .. } => assert!(name.starts_with("model.layers.3.")),
        other => panic!("{other}"),
    }
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "config.json", |c| {
        c["intermediate_size"] = 47.into()
    });
    let shape = error(dir.path());
    assert!(shape.to_string().contains("gate_proj"), "{shape}");
}

#[test]
fn what_is_not_supported_is_said() {
    for (key, value) in [
        ("architectures", json!(["GPT2LMHeadModel"])),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0 }),
        ),
        ("quantization_config", json!({ "quant_method": "gptq" })),
        ("mlp_bias", json!(true)),
    ] {
        let dir = Family::Llama.write(1);
        edit_json(dir.path(), "config.json", |c| c[key] = value);
        let error = error(dir.path());
        assert!(
            matches!(error, LoadError::Unsupported { .. }),
            "{key}: {error}"
        );
        assert!(error.to_string().contains("config.json"), "{key}: {error}");
    }
}

#[test]
fn every_type_of_weights_has_a_name_and_loads() {
    let dir = Family::Llama.write(1);
    for weights in WeightType::ALL {
        assert_eq!(weights.as_str().parse(), Ok(weights));
        load_in(dir.path(), weights);
    }
    assert!("q5_0".parse::<WeightType>().unwrap_err().contains("q4_k"));
    let quantised = WeightType::ALL
        .into_iter()
        .filter(|one| *one >= WeightType::Q8_0);
    for weights in quantised {
        let options = LoadOptions {
            weights: Some(weights),
            kernels: Kernels::Candle,
            ..LoadOptions::default()
        };
        let error = Model::load(dir.path(), &options).unwrap_err().to_string();
        assert!(error.contains(weights.as_str()), "{error}");
    }
}

#[test]
fn rows_that_are_not_whole_blocks_of_4_bits_are_kept_in_8() {
    let dir = Family::Qwen2.write(1);
    let ids = [5, 9, 300];
    let narrow = load_in(dir.path(), WeightType::Q4_K);
    let eight = load_in(dir.path(), WeightType::Q8_0);
    assert_eq!(clean_forward(&narrow, &ids), clean_forward(&eight, &ids));
}

#[test]
fn numbers_that_contradict_one_another_are_an_error() {
    for (key, value) in [
        ("num_key_value_heads", 3),
        ("num_attention_heads", 0),
        ("head_dim", 7),
        ("vocab_size", 10),
    ] {
        let dir = Family::Llama.write(1);
        edit_json(dir.path(), "config.json", |c| c[key] = value.into());
        assert!(
            Model::load(dir.path(), &LoadOptions::default()).is_err(),
            "{key}"
        );
    }
}

#[test]
fn a_tokenizer_at_which_the_library_panics_is_an_error() {
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "tokenizer.json", |t| {
        t["model"]["continuing_subword_prefix"] = "longer than any part of a merge".into();
    });
    let error = error(dir.path());
    assert!(matches!(error, LoadError::Tokenizer { .. }), "{error}");
}

#[test]
fn numbers_that_no_model_has_are_refused_before_they_are_counted_to() {
    for (name, number) in [
        ("num_hidden_layers", u64::MAX),
        ("num_hidden_layers", 5_000),
        ("vocab_size", 1 << 40),
        ("max_position_embeddings", u64::MAX),
    ] {
        let dir = Family::Llama.write(1);
        edit_json(dir.path(), "config.json", |c| c[name] = number.into());
        let error = error(dir.path()).to_string();
        assert!(error.contains(&format!("{name} is {number}")), "{error}");
    }
}

#[test]
fn settings_that_are_written_twice_must_agree() {
    let load_with = |family: Family, settings: serde_json::Value| {
        let dir = family.write(1);
        edit_json(dir.path(), "config.json", |config| {
            for (key, value) in settings.as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        Model::load(dir.path(), &LoadOptions::default()).map(|_| ())
    };
    let same = json!({ "rope_theta": 10_000.0, "rope_parameters": { "rope_type": "default", "rope_theta": 10_000.0 } });
    load_with(Family::Llama, same).unwrap();
    let other = json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 500_000.0 } });
    let error = load_with(Family::Llama, other).unwrap_err().to_string();
    assert!(
        error.contains("rope_theta") && error.contains("500000"),
        "{error}"
    );
    let kinds =
        |kinds: [&str; 3]| json!({ "layer_types": kinds.map(|kind| format!("{kind}_attention")) });
    load_with(Family::Mistral, kinds(["sliding"; 3])).unwrap();
    load_with(Family::Qwen2, kinds(["full"; 3])).unwrap();
    let error = load_with(Family::Qwen2, kinds(["full", "sliding", "full"]));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("layer 1 has a window"), "{error}");
    let error = load_with(Family::Mistral, kinds(["sliding", "sliding", "full"]));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("layer 2 has no window")
    );
}

#[test]
fn a_control_token_that_the_tokenizer_lacks_is_named() {
    let dir = Family::Llama.write(1);
    fs::remove_file(dir.path().join("onegen.json")).unwrap();
    match error(dir.path()) {
        LoadError::MissingToken { token, .. } => assert_eq!(token, "[Question Representation]"),
        other => panic!("{other}"),
    }
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "onegen.json", |c| {
        c["query_tokn"] = "[RQ]".into()
    });
    assert!(error(dir.path()).to_string().contains("query_tokn"));
}

type Tensors = HashMap<String, Tensor>;

fn tensors(dir: &Path) -> Tensors {
    candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn save(tensors: &Tensors, dir: &Path, name: &str) {
    candle_core::safetensors::save(tensors, dir.join(name)).unwrap();
}

const INDEX: &str = "model.safetensors.index.json";

/// Writes a model's tensors as two files with an index, and returns them.
fn shard(dir: &Path) -> [Tensors; 2] {
    let all: BTreeMap<_, _> = tensors(dir).into_iter().collect();
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new()];
    for (i, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(name.clone(), format!("model-{}.safetensors", i % 2).into());
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        save(shard, dir, &format!("model-{i}.safetensors"));
    }
    write_json(dir, INDEX, &json!({ "weight_map": map }));
    shards
}

#[test]
fn sharded_weights_load_as_one() {
    let dir = Family::Qwen3.write(1);
    let whole = load(dir.path());
    shard(dir.path());
    let sharded = load(dir.path());
    let ids = question(&whole, "Lima");
    assert_eq!(clean_forward(&sharded, &ids), clean_forward(&whole, &ids));
    fs::remove_file(dir.path().join("model-1.safetensors")).unwrap();
    assert!(
        error(dir.path())
            .to_string()
            .contains("model-1.safetensors")
    );
}

#[test]
fn the_index_decides_where_a_tensor_is_read_from() {
    let dir = Family::Qwen3.write(1);
    let whole = load_kept_in(dir.path(), KvType::F32);
    let ids = question(&whole, "Lima");
    let wanted = clean_forward(&whole, &ids);
    let mut shards = shard(dir.path());
    let names = [0, 1].map(|of| {
        let mut names = shards[of].keys();
        let name = names.find(|name| name.contains("layers.1.mlp"));
        name.unwrap().clone()
    });
    // Each file holds a stale copy of a tensor that the other one has.
    for (of, holder) in [(0, 1), (1, 0)] {
        let name = names[of].clone();
        let stale = (&shards[of][&name] * 2.0).unwrap();
        shards[holder].insert(format!("{name} "), stale.clone());
        shards[holder].insert(name, stale);
        save(
            &shards[holder],
            dir.path(),
            &format!("model-{holder}.safetensors"),
        );
        let sharded = load_kept_in(dir.path(), KvType::F32);
        assert_eq!(clean_forward(&sharded, &ids), wanted);
        let options = LoadOptions {
            kernels: Kernels::Candle,
            ..LoadOptions::default()
        };
        let candle = Model::load(dir.path(), &options).unwrap();
        for (got, wanted) in clean_forward(&candle, &ids).1.iter().zip(&wanted.1) {
            assert!(difference(wanted, got) < 1e-4);
        }
    }
}

#[test]
fn files_that_contradict_their_index_or_one_another_are_refused() {
    let said = |dir: &Path, words: &[&str]| {
        let error = error(dir).to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let dir = Family::Qwen3.write(1);
    let mut shards = shard(dir.path());
    let name = "model.norm.weight";
    let holder = usize::from(shards[1].contains_key(name));
    let moved = shards[holder].remove(name).unwrap();
    save(
        &shards[holder],
        dir.path(),
        &format!("model-{holder}.safetensors"),
    );
    said(
        dir.path(),
        &[name, &format!("model-{holder}.safetensors"), "lacks"],
    );
    // Another file has it, but the index does not say so.
    shards[1 - holder].insert(name.into(), moved.clone());
    save(
        &shards[1 - holder],
        dir.path(),
        &format!("model-{}.safetensors", 1 - holder),
    );
    said(
        dir.path(),
        &[name, &format!("model-{holder}.safetensors"), "lacks"],
    );
    // Without an index each tensor may be in one file only.
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    load(dir.path());
    shards[holder].insert(name.into(), moved);
    save(
        &shards[holder],
        dir.path(),
        &format!("model-{holder}.safetensors"),
    );
    said(
        dir.path(),
        &[name, "model-0.safetensors", "model-1.safetensors"],
    );

    let dir = Family::Qwen3.write(1);
    let whole = tensors(dir.path());
    shard(dir.path());
    save(&whole, dir.path(), "model.safetensors");
    said(dir.path(), &[INDEX, "does not name model.safetensors"]);
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    for outside in ["../model-0.safetensors", "/model-0.safetensors"] {
        edit_json(dir.path(), INDEX, |index| {
            index["weight_map"][name] = outside.into()
        });
        said(dir.path(), &[INDEX, outside]);
    }
}

#[test]
fn weights_that_the_configuration_contradicts_are_refused() {
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "config.json", |c| {
        c["num_hidden_layers"] = 2.into()
    });
    let fewer = error(dir.path()).to_string();
    assert!(
        fewer.contains("config.json") && fewer.contains("model.layers.2."),
        "{fewer}"
    );

    // Qwen2's biases under the name of another family.
    let dir = Family::Qwen2.write(1);
    edit_json(dir.path(), "config.json", |c| {
        c["architectures"] = json!(["LlamaForCausalLM"])
    });
    let biases = error(dir.path()).to_string();
    assert!(biases.contains("k_proj.bias"), "{biases}");

    // What transformers' older versions saved beside the weights changes nothing.
    let dir = Family::Llama.write(1);
    let mut tensors_of_llama = tensors(dir.path());
    let frequencies = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    tensors_of_llama.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        frequencies,
    );
    save(&tensors_of_llama, dir.path(), "model.safetensors");
    load(dir.path());

    let dir = Family::Qwen2.write(1);
    let mut tied = tensors(dir.path());
    let embedding = tied["model.embed_tokens.weight"].clone();
    tied.insert("lm_head.weight".into(), embedding.clone());
    save(&tied, dir.path(), "model.safetensors");
    load(dir.path());
    tied.insert("lm_head.weight".into(), (embedding * 2.0).unwrap());
    save(&tied, dir.path(), "model.safetensors");
    let two = error(dir.path()).to_string();
    assert!(two.contains("tie_word_embeddings"), "{two}");
}

#[test]
fn an_end_of_turn_that_the_tokenizer_lacks_is_left_out() {
    let dir = Family::Llama.write(1);
    let end = load(dir.path()).tokens().id_of("[RD]").unwrap();
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    write_json(
        dir.path(),
        "tokenizer_config.json",
        &json!({ "chat_template": template }),
    );
    write_json(
        dir.path(),
        "generation_config.json",
        &json!({ "eos_token_id": [end, 100_000] }),
    );
    let ends: Vec<_> = load(dir.path()).tokens().eos_ids().collect();
    assert_eq!(ends, [end]);
    write_json(
        dir.path(),
        "generation_config.json",
        &json!({ "eos_token_id": 100_000 }),
    );
    assert!(matches!(error(dir.path()), LoadError::MissingToken { .. }));
}

#[test]
fn fingerprints_change_with_what_they_stand_for() {
    let dir = Family::Llama.write(1);
    let first = load(dir.path()).fingerprints().clone();
    assert_eq!(load(dir.path()).fingerprints(), &first);
    let other_weights = load(Family::Llama.write(2).path()).fingerprints().clone();
    assert_ne!(other_weights.model, first.model);
    assert_eq!(other_weights.tokenizer, first.tokenizer);
    edit_json(dir.path(), "onegen.json", |c| {
        c["embed_template"] = "{text}".into()
    });
    let other_template = load(dir.path()).fingerprints().clone();
    assert_ne!(other_template.template, first.template);
    assert_eq!(other_template.model, first.model);
}
