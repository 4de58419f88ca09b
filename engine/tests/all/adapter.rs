//! Adapters over their bases against transformers and peft: golden files that `adapter/make.py` wrote.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::gguf::{as_gguf, rounded};
use crate::common::*;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use onegen_engine::{Kernels, KvType, LoadError, LoadOptions, Model, WeightType, is_adapter};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAMES: [&str; 2] = ["llama", "qwen2"];
const IDS: [u32; 8] = [5, 17, 9, 300, 41, 260, 7, 60];

fn golden_dir(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/adapter").join(name)
}

/// A base with a tokenizer beside it, and an adapter, both to be changed by a test.
struct Pair {
    base: TempDir,
    adapter: TempDir,
}

impl Pair {
    fn new(name: &str) -> Self {
        let (base, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (part, to) in [("base", &base), ("adapter", &adapter)] {
            for entry in fs::read_dir(golden_dir(name).join(part)).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        write_tokenizer(base.path());
        Self { base, adapter }
    }

    fn load(&self) -> Arc<Model> {
        over(self.adapter.path(), self.base.path())
    }

    fn error(&self) -> LoadError {
        Model::load(self.adapter.path(), &with_base(self.base.path())).unwrap_err()
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        edit_json(self.adapter.path(), name, change);
    }

    fn edit_weights(&self, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
        let path = self.adapter.path().join("adapter_model.safetensors");
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }
}

fn with_base(base: &Path) -> LoadOptions {
    LoadOptions {
        base: Some(base.to_owned()),
        kv: KvType::F32,
        ..LoadOptions::default()
    }
}

fn over(adapter: &Path, base: &Path) -> Arc<Model> {
    Arc::new(Model::load(adapter, &with_base(base)).unwrap())
}

fn loaded_in(adapter: &Path, base: &Path, weights: Option<WeightType>, kernels: Kernels) -> Model {
    let options = LoadOptions {
        weights,
        kernels,
        ..with_base(base)
    };
    Model::load(adapter, &options).unwrap()
}

#[test]
fn states_and_logits_are_those_of_transformers_with_peft() {
    for name in NAMES {
        let pair = Pair::new(name);
        let tensors = golden_dir(name).join("golden.safetensors");
        let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
        let integers = |name: &str| tensors[name].to_vec1::<i64>().unwrap();
        let rows = |name: &str| tensors[name].to_vec2::<f32>().unwrap();
        let ids: Vec<u32> = integers("ids").iter().map(|id| *id as u32).collect();
        let gguf = as_gguf(pair.base.path(), GgmlDType::BF16);
        let file = gguf.path().join("tiny.gguf");
        for base in [pair.base.path(), gguf.path(), &file] {
            for kernels in [Kernels::Own, Kernels::Candle] {
                let f32 = Some(WeightType::F32);
                let model = loaded_in(pair.adapter.path(), base, f32, kernels);
                let (hidden, logits) = clean_forward(&model, &ids);
                for (row, at) in integers("positions").into_iter().enumerate() {
                    let what = format!("{name} over {}, {kernels:?}, {at}", base.display());
                    let apart = difference(&rows("logits")[row], &logits[at as usize]);
                    assert!(apart < 1e-4, "{what}: logits are {apart} apart");
                    let cosine = cosine(&rows("hidden")[row], &hidden[at as usize]);
                    assert!(cosine > 0.999999, "{what}: cosine {cosine}");
                }
            }
        }
    }
}

#[test]
fn an_adapter_is_merged_before_its_base_is_rounded() {
    // Whatever the base's type, the merged numbers are quantised to 8 bits; 4 bits would lose too
    // much.
    for element in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4_1] {
        let pair = Pair::new("llama");
        let gguf = as_gguf(pair.base.path(), element);
        let same = rounded(pair.base.path(), element);
        let load =
            |base: &Path, weights| loaded_in(pair.adapter.path(), base, weights, Kernels::Own);
        let q8_0 = Some(WeightType::Q8_0);
        let wanted = clean_forward(&load(same.path(), q8_0), &IDS);
        let got = clean_forward(&load(gguf.path(), q8_0), &IDS);
        assert!(got == wanted, "{element:?}");
        let kept = clean_forward(&load(gguf.path(), None), &IDS);
        assert!(kept == wanted, "{element:?} as it comes");
    }
}

#[test]
fn an_adapter_in_16_bits_or_without_effect_is_no_other_one() {
    let pair = Pair::new("llama");
    let wanted = clean_forward(&pair.load(), &IDS);
    for dtype in [DType::BF16, DType::F16] {
        // Numbers of few bits, so that nothing is lost.
        pair.edit_weights(|tensors| {
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(dtype).unwrap();
            }
        });
        let apart = difference(&wanted.1[7], &clean_forward(&pair.load(), &IDS).1[7]);
        assert!(apart < 1e-3, "{dtype:?}: {apart}");
    }
    pair.edit("adapter_config.json", |config| {
        config["lora_alpha"] = 0.into()
    });
    pair.edit("adapter_config.json", |config| {
        config["trainable_token_indices"] = Value::Null
    });
    pair.edit_weights(|tensors| tensors.retain(|name, _| name.contains("lora_")));
    let base = clean_forward(&load_kept_in(pair.base.path(), KvType::F32), &IDS);
    assert!(clean_forward(&pair.load(), &IDS) == base);
    assert!(wanted != base);
}

#[test]
fn files_of_the_adapter_go_before_those_of_the_base() {
    let pair = Pair::new("llama");
    let gguf = as_gguf(pair.base.path(), GgmlDType::F32);
    for base in [pair.base.path(), gguf.path()] {
        let adapter = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(pair.adapter.path().join(name), adapter.path().join(name)).unwrap();
        }
        let adapter = adapter.path();
        let (alone, plain) = (load(base), over(adapter, base));
        let (asked, tokenizer) = (question(&alone, "Lima"), &alone.fingerprints().tokenizer);
        assert_eq!(question(&plain, "Lima"), asked);
        assert_eq!(&plain.fingerprints().tokenizer, tokenizer);
        assert_eq!(plain.tokens().onegen(), alone.tokens().onegen());

        let mut onegen = serde_json::to_value(alone.tokens().onegen()).unwrap();
        onegen["query_token"] = "[RD]".into();
        onegen["passage_token"] = "[RQ]".into();
        write_json(adapter, "onegen.json", &onegen);
        write_json(
            adapter,
            "generation_config.json",
            &json!({ "eos_token_id": [7] }),
        );
        write_json(
            adapter,
            "tokenizer_config.json",
            &json!({ "eos_token": "[RD]" }),
        );
        let changed = over(adapter, base);
        assert_eq!(changed.tokens().query_id(), alone.tokens().passage_id());
        assert!(changed.tokens().is_eos(7));
        assert!(changed.tokens().is_eos(changed.tokens().query_id()));
        assert_eq!(
            question(&changed, "Lima"),
            asked,
            "the base's template is left"
        );

        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        fs::write(adapter.join("chat_template.jinja"), template).unwrap();
        assert!(question(&over(adapter, base), "Lima").len() < asked.len());
        // A template in the newer file of the base still counts as the base's.
        fs::remove_file(adapter.join("chat_template.jinja")).unwrap();
        write_json(
            adapter,
            "tokenizer_config.json",
            &json!({ "chat_template": template }),
        );
        fs::write(
            base.join("chat_template.jinja"),
            "{{ messages[0].content * 9 }}",
        )
        .unwrap();
        assert!(question(&over(adapter, base), "Lima").len() < asked.len());
        fs::remove_file(base.join("chat_template.jinja")).unwrap();
    }
    let own = pair.adapter.path().join("tokenizer.json");
    let mut tokenizer = fs::read(pair.base.path().join("tokenizer.json")).unwrap();
    tokenizer.push(b'\n');
    fs::write(own, tokenizer).unwrap();
    assert_ne!(
        pair.load().fingerprints().tokenizer,
        load(pair.base.path()).fingerprints().tokenizer
    );
}

#[test]
fn an_adapter_has_its_own_name_and_a_fingerprint_of_everything() {
    let pair = Pair::new("llama");
    assert!(is_adapter(pair.adapter.path()) && !is_adapter(pair.base.path()));
    let first = pair.load();
    let directory = pair.adapter.path().file_name().unwrap();
    assert_eq!(first.name(), directory.to_str().unwrap());
    let first = first.fingerprints().clone();
    assert_eq!(pair.load().fingerprints(), &first);
    assert_ne!(load(pair.base.path()).fingerprints().model, first.model);
    pair.edit("adapter_config.json", |config| {
        config["lora_alpha"] = 9.into()
    });
    let other_scale = pair.load().fingerprints().clone();
    assert_ne!(other_scale.model, first.model);
    pair.edit_weights(|tensors| {
        let any = tensors.values_mut().next().unwrap();
        *any = (&*any * 2.0).unwrap();
    });
    let other_weights = pair.load().fingerprints().clone();
    assert_ne!(other_weights.model, other_scale.model);
    let gguf = as_gguf(pair.base.path(), GgmlDType::F32);
    let other_base = over(pair.adapter.path(), gguf.path())
        .fingerprints()
        .clone();
    assert_ne!(other_base.model, other_weights.model);
}

#[test]
fn a_vocabulary_may_grow_by_rows_of_the_adapter() {
    let pair = Pair::new("llama");
    fs::copy(
        pair.base.path().join("config.json"),
        pair.adapter.path().join("config.json"),
    )
    .unwrap();
    pair.edit("config.json", |config| config["vocab_size"] = 322.into());
    let ids = json!({ "embed_tokens": [9, 320, 321] });
    pair.edit("adapter_config.json", |config| {
        config["trainable_token_indices"] = ids
    });
    let gguf = as_gguf(pair.base.path(), GgmlDType::Q8_0);
    for base in [pair.base.path(), gguf.path()] {
        for kernels in [Kernels::Own, Kernels::Candle] {
            let model = loaded_in(pair.adapter.path(), base, None, kernels);
            assert_eq!(model.config().vocab_size, 322);
            let (_, logits) = clean_forward(&model, &[9, 320, 321, 5]);
            assert_eq!(logits[3].len(), 322);
            assert_ne!(logits[1], logits[2]);
        }
    }
    let ids = json!({ "embed_tokens": [9, 8, 321] });
    pair.edit("adapter_config.json", |config| {
        config["trainable_token_indices"] = ids
    });
    let gap = pair.error().to_string();
    assert!(gap.contains("the id 320"), "{gap}");
}

#[test]
fn an_adapter_without_its_base_says_what_it_needs() {
    let pair = Pair::new("llama");
    pair.edit("adapter_config.json", |config| {
        config["base_model_name_or_path"] = "some/Base-1B".into();
    });
    let error = Model::load(pair.adapter.path(), &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::NoBase { .. }), "{error}");
    assert!(error.to_string().contains("some/Base-1B"), "{error}");
    let missing = Model::load(pair.adapter.path(), &with_base(Path::new("missing.gguf")));
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("missing.gguf"), "{missing}");
    let itself = Model::load(pair.adapter.path(), &with_base(pair.adapter.path())).unwrap_err();
    assert!(matches!(itself, LoadError::Unsupported { .. }), "{itself}");
    // A model that is not an adapter needs no base.
    Model::load(pair.base.path(), &with_base(Path::new("missing.gguf"))).unwrap();
}

#[test]
fn another_base_is_refused_with_both_values() {
    let pair = Pair::new("llama");
    let found = load(pair.base.path()).fingerprints().model.clone();
    let mut onegen = serde_json::to_value(load(pair.base.path()).tokens().onegen()).unwrap();
    onegen["base"] = json!({ "name": "Base-1B", "blake3": found.to_uppercase() });
    write_json(pair.adapter.path(), "onegen.json", &onegen);
    let name = pair.load().tokens().onegen().base.clone().unwrap().name;
    assert_eq!(name.as_deref(), Some("Base-1B"));
    let wanted = "0".repeat(64);
    onegen["base"] = json!({ "name": "Base-1B", "blake3": wanted });
    write_json(pair.adapter.path(), "onegen.json", &onegen);
    let error = pair.error();
    assert!(matches!(error, LoadError::OtherBase { .. }), "{error}");
    for part in [&found, &wanted, "Base-1B"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let alone = Model::load(pair.adapter.path(), &LoadOptions::default()).unwrap_err();
    assert!(alone.to_string().contains("Base-1B"), "{alone}");
}

#[test]
fn a_base_of_another_shape_or_architecture_is_refused() {
    let refused = |adapter: &Path, base: &Path, what: &[&str]| {
        let error = Model::load(adapter, &with_base(base)).unwrap_err();
        assert!(matches!(error, LoadError::OtherBase { .. }), "{error}");
        for what in what {
            assert!(error.to_string().contains(what), "{error}");
        }
    };
    let (llama, qwen2) = (Pair::new("llama"), Pair::new("qwen2"));
    let classes = ["LlamaForCausalLM", "Qwen2ForCausalLM"];
    refused(llama.adapter.path(), qwen2.base.path(), &classes);
    llama.edit("adapter_config.json", |config| {
        config["auto_mapping"] = Value::Null
    });
    let other = Family::Llama.write(1);
    refused(llama.adapter.path(), other.path(), &["[16, 4]", "[32, 4]"]);
    let shape = json!({ "hidden_size": 64, "num_hidden_layers": 1, "tie_word_embeddings": false });
    for (key, value) in shape.as_object().unwrap() {
        let config = llama.base.path().join("config.json");
        fs::copy(config, llama.adapter.path().join("config.json")).unwrap();
        llama.edit("config.json", |config| config[key] = value.clone());
        refused(llama.adapter.path(), llama.base.path(), &[key]);
        fs::remove_file(llama.adapter.path().join("config.json")).unwrap();
    }
    llama.edit_weights(|tensors| {
        let name = "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight";
        let any = tensors.values().next().unwrap().clone();
        tensors.insert(name.into(), any);
    });
    refused(
        llama.adapter.path(),
        llama.base.path(),
        &["layers.7.", "2 layers"],
    );
    let ids = json!({ "embed_tokens": [9, 8, 400] });
    let pair = Pair::new("llama");
    pair.edit("adapter_config.json", |config| {
        config["trainable_token_indices"] = ids
    });
    refused(pair.adapter.path(), pair.base.path(), &["400", "320"]);
}

#[test]
fn what_is_no_plain_lora_is_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("PREFIX_TUNING")),
        ("use_rslora", json!(true)),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({ "q_proj": 2 })),
        ("alpha_pattern", json!({ "q_proj": 2 })),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["experts.weight"])),
        ("init_lora_weights", json!("pissa")),
        ("some_later_setting", json!(3)),
        ("target_modules", json!(["q_proj", "c_attn"])),
        ("target_modules", json!(["embed_tokens"])),
        ("trainable_token_indices", json!({ "wte": [3] })),
        ("trainable_token_indices", json!({ "lm_head": [3] })),
    ] {
        let pair = Pair::new("llama");
        pair.edit("adapter_config.json", |config| config[key] = value.clone());
        let error = pair.error();
        assert!(
            matches!(error, LoadError::Unsupported { .. }),
            "{key}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains("adapter_config.json"), "{message}");
        let named = value.as_array().and_then(|all| all.last()?.as_str());
        let named = named.filter(|_| key == "target_modules");
        assert!(message.contains(named.unwrap_or(key)), "{message}");
    }
    let pair = Pair::new("llama");
    for harmless in [json!(false), json!("gaussian"), json!("eva")] {
        pair.edit("adapter_config.json", |config| {
            config["init_lora_weights"] = harmless
        });
        pair.load();
    }
}

#[test]
fn missing_and_odd_tensors_are_named() {
    let named = |change: &dyn Fn(&Pair), parts: &[&str]| {
        let pair = Pair::new("llama");
        change(&pair);
        let message = pair.error().to_string();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    };
    let up = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight";
    let delta = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    for name in [up, delta] {
        let remove = |pair: &Pair| pair.edit_weights(|tensors| drop(tensors.remove(name)));
        named(&remove, &["adapter_model.safetensors", name]);
        let narrow = |pair: &Pair| {
            pair.edit_weights(|tensors| {
                let less = tensors[name].narrow(0, 0, 2).unwrap();
                tensors.insert(name.into(), less);
            });
        };
        named(&narrow, &[name, "[2, "]);
        let odd = |pair: &Pair| {
            pair.edit_weights(|tensors| {
                let tensor = tensors[name].clone();
                tensors.insert(name.replace("model.model.", "model.model.vision."), tensor);
            });
        };
        named(&odd, &["vision."]);
    }
    let fewer = |pair: &Pair| {
        pair.edit("adapter_config.json", |config| {
            config["target_modules"] = json!(["q_proj"])
        });
    };
    named(&fewer, &["down_proj.lora_A", "adapter_config.json"]);
    let by_pattern = |pair: &Pair| {
        let pattern = json!(".*_proj");
        pair.edit("adapter_config.json", |config| {
            config["target_modules"] = pattern
        });
        pair.edit_weights(|tensors| drop(tensors.remove(up)));
    };
    named(&by_pattern, &[up]);
    let rank = |pair: &Pair| pair.edit("adapter_config.json", |config| config["r"] = 8.into());
    named(&rank, &["lora_A", "[4, 32]", "[8, 32]"]);
    let zero = |pair: &Pair| pair.edit("adapter_config.json", |config| config["r"] = 0.into());
    named(&zero, &["r is 0"]);
    let twice = |pair: &Pair| {
        let ids = json!({ "embed_tokens": [9, 9, 5] });
        pair.edit("adapter_config.json", |config| {
            config["trainable_token_indices"] = ids
        });
    };
    named(&twice, &["the id 9", "twice"]);
    let weights = |pair: &Pair| pair.adapter.path().join("adapter_model.safetensors");
    named(
        &|pair| fs::remove_file(weights(pair)).unwrap(),
        &["adapter_model.safetensors"],
    );
    let cut = |pair: &Pair| {
        let whole = fs::read(weights(pair)).unwrap();
        fs::write(weights(pair), &whole[..whole.len() / 2]).unwrap();
    };
    named(&cut, &["adapter_model.safetensors", "cut short"]);
}

#[test]
fn a_pattern_changes_the_modules_that_have_tensors() {
    let pair = Pair::new("qwen2");
    let wanted = clean_forward(&pair.load(), &IDS);
    pair.edit("adapter_config.json", |config| {
        config["target_modules"] = "model\\.layers\\.1\\..*".into();
        config["layers_to_transform"] = Value::Null;
    });
    assert!(clean_forward(&pair.load(), &IDS) == wanted);
}

#[test]
fn a_conversation_runs_and_retrieves_over_a_quantised_base() {
    let pair = Pair::new("llama");
    let gguf = as_gguf(pair.base.path(), GgmlDType::Q4_1);
    let model = over(pair.adapter.path(), gguf.path());
    let engine = engine(&model, Some(Shelf::new(vec![peru()])));
    let completion = run(&engine, retrieving(&model, "a", 20, 1));
    assert_eq!(completion.summary.retrievals.len(), 1);
}
