//! Model directories that are not what they should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use crate::common::*;
use onegen_engine::{Kernels, LoadError, LoadOptions, Model, WeightType};
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

#[test]
fn sharded_weights_load_as_one() {
    let dir = Family::Qwen3.write(1);
    let whole = load(dir.path());
    let path = dir.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    fs::remove_file(&path).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [
        std::collections::HashMap::new(),
        std::collections::HashMap::new(),
    ];
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), format!("model-{}.safetensors", i % 2).into());
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = dir.path().join(format!("model-{i}.safetensors"));
        candle_core::safetensors::save(shard, path).unwrap();
    }
    write_json(
        dir.path(),
        "model.safetensors.index.json",
        &json!({ "weight_map": map }),
    );
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
