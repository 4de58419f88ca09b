//! Tokenizers of GGUF files against llama.cpp and sentencepiece: golden files that `gguf/make.py` wrote.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::gguf::{GgufFile, count, text};
use crate::common::*;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use onegen_engine::{Detokeniser, Model};
use serde_json::{Value as Json, json};

fn golden(name: &str) -> Json {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf");
    serde_json::from_slice(&fs::read(here.join(name)).unwrap()).unwrap()
}

fn strings(list: &Json) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|one| one.as_str().unwrap()).collect()
}

fn texts(list: &Json) -> Value {
    Value::Array(strings(list).into_iter().map(text).collect())
}

/// A small model with the golden file's vocabulary.
fn model(golden: &Json, pre: Option<&str>) -> Arc<Model> {
    let dir = Family::Llama.write(1);
    let mut file = GgufFile::new(dir.path(), GgmlDType::F32);
    let tokens = strings(&golden["tokens"]);
    let rows = Tensor::zeros((tokens.len(), 32), DType::F32, &Device::Cpu).unwrap();
    for name in ["token_embd.weight", "output.weight"] {
        file.put(name, &rows, GgmlDType::F32);
    }
    let types = golden["types"].as_array().unwrap().iter();
    let types = types.map(|kind| kind.as_i64().unwrap() as i32);
    let tokens = tokens.into_iter().map(str::to_owned);
    file.set_tokens(tokens.zip(types));
    file.set(
        "tokenizer.ggml.model",
        text(golden["model"].as_str().unwrap()),
    );
    file.set("tokenizer.ggml.bos_token_id", count(1));
    file.set("tokenizer.ggml.eos_token_id", count(2));
    file.metadata.remove("tokenizer.ggml.pre");
    if let Some(pre) = pre {
        file.set("tokenizer.ggml.pre", text(pre));
    }
    if golden["merges"].is_array() {
        file.set("tokenizer.ggml.merges", texts(&golden["merges"]));
    }
    if let Some(scores) = golden["scores"].as_array() {
        let score = |score: &Json| Value::F32(score.as_f64().unwrap() as f32);
        let scores = scores.iter().map(score).collect();
        file.set("tokenizer.ggml.scores", Value::Array(scores));
    }
    let gguf = tempfile::tempdir().unwrap();
    file.write(&gguf.path().join("vocabulary.gguf"));
    name_tokens(gguf.path(), ["<unk>", "<s>", "</s>", "<unk>"]);
    load(gguf.path())
}

fn name_tokens(dir: &Path, tokens: [&str; 4]) {
    write_json(
        dir,
        "onegen.json",
        &json!({
            "query_token": tokens[0], "passage_token": tokens[1],
            "passage_open": tokens[2], "passage_close": tokens[3],
        }),
    );
}

fn check(what: &str, model: &Arc<Model>, golden: &Json, wanted: &Json) {
    let tokens = model.tokens();
    for (text, wanted) in strings(&golden["texts"])
        .into_iter()
        .zip(wanted.as_array().unwrap())
    {
        let ids = tokens.encode_plain(text).unwrap();
        assert_eq!(json!(ids), *wanted, "{what}: {text:?}");
        let mut detokeniser = Detokeniser::new(tokens.clone());
        let mut out = String::new();
        for id in ids {
            out.push_str(&detokeniser.push(id).unwrap());
        }
        out.push_str(&detokeniser.finish().unwrap());
        // Some rules compose characters, and the sign for a space reads as one.
        if !text.contains(['\u{301}', '▁']) {
            assert_eq!(out, text, "{what}");
        }
    }
}

#[test]
fn pieces_are_merged_as_llama_cpp_and_sentencepiece_merge_them() {
    let golden = golden("pieces.json");
    check("pieces", &model(&golden, None), &golden, &golden["ids"]);
}

#[test]
fn bytes_are_cut_and_merged_as_llama_cpp_does() {
    let golden = golden("bytes.json");
    for (pre, ids) in golden["ids"].as_object().unwrap() {
        check(pre, &model(&golden, Some(pre)), &golden, ids);
    }
}

#[test]
fn llama_2s_vocabulary_gives_the_ids_that_llama_cpp_gives() {
    let name = "llama-2-tiny-random.gguf";
    let Some(file) = shared_data(name) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::copy(file, dir.path().join(name)).unwrap();
    name_tokens(dir.path(), ["<0x01>", "<0x02>", "<0x03>", "<0x04>"]);
    let golden = golden("llama2.json");
    check("llama 2", &load(dir.path()), &golden, &golden["ids"]);
}

/// `ONEGEN_BASE=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p onegen-engine --test all gguf_tokenizer::`
#[test]
fn smollm2s_vocabulary_gives_the_ids_of_its_own_tokenizer() {
    let Some(dir) = smollm2() else {
        return;
    };
    let model = load(dir.path());
    let tokens = model.tokens();
    for row in golden("smollm2.json").as_array().unwrap() {
        let text = row[0].as_str().unwrap();
        let ids = tokens.encode_plain(text).unwrap();
        assert_eq!(json!(ids), row[1], "{text:?}");
        assert!(
            ids.iter().all(|&id| id > 16),
            "{text:?} became a control token"
        );
    }
    let names = [
        "<issue_start>",
        "<issue_closed>",
        "<file_sep>",
        "<filename>",
        "<|im_end|>",
    ];
    let ids = [8, 10, 5, 6, 2];
    for (name, id) in names.into_iter().zip(ids) {
        assert_eq!(tokens.spelling(id).as_deref(), Some(name));
    }
    assert!(tokens.is_eos(2), "<|im_end|> ends a turn");
}

#[test]
fn control_tokens_enter_by_id_only_and_unused_ones_never() {
    let mut golden = golden("pieces.json");
    let unused = golden["tokens"].as_array().unwrap().len() - 1;
    golden["types"][unused] = 5.into();
    let model = model(&golden, None);
    let tokens = model.tokens();
    assert!(!tokens.encode_plain("<s> </s> <unk>").unwrap().contains(&1));
    assert!(tokens.is_eos(2));
    assert_eq!(tokens.decode(&[1, 2]).unwrap(), "");
    assert_eq!(tokens.spelling(unused as u32), None);
}
