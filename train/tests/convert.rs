//! `merge` and `export` write the same model that the engine loads from base and adapter.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use onegen_engine::{
    ChatMessage, LoadOptions, Model, Role, SequenceInput, SpanKind, WeightType, is_adapter,
};
use onegen_train::convert::gguf::Element;
use onegen_train::convert::{NumberType, Source, directory, gguf};
use serde_json::{Value, json};
use tempfile::TempDir;

const FAMILIES: [&str; 3] = ["llama", "qwen2", "qwen3"];
const IDS: [u32; 10] = [20, 31, 7, 5, 44, 90, 9, 4, 63, 12];
/// The golden models have this many rows.
const ROWS: u32 = 97;
const CONTROL: [(u32, &str); 6] = [
    (0, "<|end|>"),
    (4, "</doc>"),
    (5, "<doc>"),
    (7, "[RQ]"),
    (9, "[RD]"),
    (10, "<|user|>"),
];

/// A base of the golden files and its adapter, with a tokenizer of as many tokens as there are rows.
struct Pair {
    directory: TempDir,
}

impl Pair {
    fn new(family: &str) -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let directory = tempfile::tempdir().unwrap();
        let pair = Self { directory };
        for (from, to, names) in [
            ("", pair.base(), ["config.json", "model.safetensors"]),
            (
                "adapter",
                pair.adapter(),
                ["adapter_config.json", "adapter_model.safetensors"],
            ),
        ] {
            fs::create_dir_all(&to).unwrap();
            for name in names {
                fs::copy(golden.join(family).join(from).join(name), to.join(name)).unwrap();
            }
        }
        write(&pair.base().join("tokenizer.json"), &tokenizer());
        let template = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}";
        let config = json!({ "eos_token": "<|end|>", "chat_template": template });
        write(&pair.base().join("tokenizer_config.json"), &config);
        let onegen = json!({
            "query_token": "[RQ]", "passage_token": "[RD]",
            "passage_open": "<doc>", "passage_close": "</doc>",
            "splice_template": "{title}: {text}", "embed_template": "{title}: {text}",
            "prompt_template": null, "add_bos": false,
            "base": { "name": "golden" },
        });
        write(&pair.adapter().join("onegen.json"), &onegen);
        pair
    }

    fn base(&self) -> PathBuf {
        self.directory.path().join("base")
    }

    fn adapter(&self) -> PathBuf {
        self.directory.path().join("adapter")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self) -> Source {
        Source::open(&self.base(), Some(&self.adapter())).unwrap()
    }

    fn merged(&self) -> Model {
        load(&self.adapter(), Some(&self.base()))
    }
}

fn write(path: &Path, json: &Value) {
    fs::write(path, json.to_string()).unwrap();
}

/// A byte-level tokenizer in GPT-2's spelling with as many tokens as rows allow, and two merges.
fn tokenizer() -> Value {
    let control = |id| CONTROL.iter().find(|(control, _)| *control == id);
    let letters = (b'!'..=b'~').map(|byte| char::from(byte).to_string());
    let mut pieces = ["\u{120}", "th", "the"]
        .map(str::to_owned)
        .into_iter()
        .chain(letters);
    let (mut vocab, mut added) = (serde_json::Map::new(), vec![]);
    for id in 0..ROWS {
        let token = control(id).map(|(_, token)| (*token).to_owned());
        if let Some(token) = &token {
            added.push(json!({
                "id": id, "content": token, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
        vocab.insert(token.or_else(|| pieces.next()).unwrap(), id.into());
    }
    json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"]] },
    })
}

fn load(path: &Path, base: Option<&Path>) -> Model {
    let options = LoadOptions {
        weights: Some(WeightType::F32),
        base: base.map(Path::to_owned),
        ..LoadOptions::default()
    };
    Model::load(path, &options).unwrap()
}

fn logits(model: &Model) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache();
    let at: Vec<usize> = (0..IDS.len()).collect();
    let input = SequenceInput {
        ids: &IDS,
        kinds: &[SpanKind::Prompt; IDS.len()],
        cache: &mut cache,
        hidden_at: &[],
        logits_at: &at,
    };
    model.forward(&mut [input]).unwrap().remove(0).logits
}

/// Asserts that two models encode and decode the same ids.
fn assert_same_ids(one: &Model, other: &Model) {
    let (one, other) = (one.tokens(), other.tokens());
    let text = "The other thing, then: 1234 or <doc> [RQ]?";
    assert_eq!(
        one.encode_text(text).unwrap(),
        other.encode_text(text).unwrap()
    );
    let asked = [ChatMessage::new(Role::User, "the [RQ] thing")];
    assert_eq!(
        one.encode_chat(&asked).unwrap(),
        other.encode_chat(&asked).unwrap()
    );
    assert_eq!(
        one.passage_ids("a", "b").unwrap(),
        other.passage_ids("a", "b").unwrap()
    );
    assert_eq!(one.query_id(), other.query_id());
    let ends = |tokens: &onegen_engine::Tokens| tokens.eos_ids().collect::<Vec<_>>();
    assert_eq!(ends(one), ends(other));
    assert_eq!(other.onegen().base, None);
}

#[test]
fn a_merged_directory_is_the_model_that_the_engine_merges() {
    for family in FAMILIES {
        let pair = Pair::new(family);
        let out = pair.out("merged");
        directory::write(&pair.source(), &out, NumberType::F32).unwrap();
        assert!(!is_adapter(&out));
        let (wanted, got) = (pair.merged(), load(&out, None));
        assert!(logits(&got) == logits(&wanted), "{family}");
        assert!(
            logits(&got) != logits(&load_base(&pair)),
            "{family}: nothing was merged"
        );
        assert_same_ids(&wanted, &got);
        assert!(!pair.out("merged.new").exists());
    }
}

/// The base with the adapter's onegen.json beside it.
fn load_base(pair: &Pair) -> Model {
    let onegen = "onegen.json";
    fs::copy(pair.adapter().join(onegen), pair.base().join(onegen)).unwrap();
    let model = load(&pair.base(), None);
    fs::remove_file(pair.base().join(onegen)).unwrap();
    model
}

#[test]
fn numbers_of_16_bits_are_near() {
    let pair = Pair::new("llama");
    let wanted = logits(&pair.merged());
    for number in [NumberType::F16, NumberType::Bf16] {
        let out = pair.out(&format!("{number:?}"));
        directory::write(&pair.source(), &out, number).unwrap();
        let got = logits(&load(&out, None));
        assert!(
            got != wanted && difference(&got, &wanted) < 0.2,
            "{number:?}"
        );
        let size = fs::metadata(out.join("model.safetensors")).unwrap().len();
        assert!(size < 110_000, "{size} bytes");
    }
}

fn difference(one: &[Vec<f32>], other: &[Vec<f32>]) -> f32 {
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_exported_file_is_the_model_that_the_engine_merges() {
    for family in FAMILIES {
        let pair = Pair::new(family);
        let out = pair.out("exported.gguf");
        gguf::write(&pair.source(), &out, Some(Element::F32)).unwrap();
        let (wanted, got) = (pair.merged(), load(&out, None));
        assert!(logits(&got) == logits(&wanted), "{family}");
        assert_same_ids(&wanted, &got);
    }
}

#[test]
fn a_gguf_base_is_merged_into_either_form() {
    for family in FAMILIES {
        let pair = Pair::new(family);
        let wanted = pair.merged();
        // The base alone as a file, in a directory of its own.
        let alone = pair.out("alone");
        fs::create_dir(&alone).unwrap();
        let onegen = "onegen.json";
        fs::copy(pair.adapter().join(onegen), pair.base().join(onegen)).unwrap();
        let base = alone.join("base.gguf");
        gguf::write(&Source::open(&pair.base(), None).unwrap(), &base, None).unwrap();
        assert!(logits(&load(&base, None)) == logits(&load(&pair.base(), None)));
        let source = Source::open(&base, Some(&pair.adapter())).unwrap();
        let (merged, exported) = (pair.out("merged"), pair.out("exported.gguf"));
        directory::write(&source, &merged, NumberType::F32).unwrap();
        gguf::write(&source, &exported, None).unwrap();
        for out in [merged, exported] {
            let got = load(&out, None);
            assert!(
                logits(&got) == logits(&wanted),
                "{family}: {}",
                out.display()
            );
            assert_same_ids(&wanted, &got);
        }
    }
}

#[test]
fn a_template_of_the_adapters_goes_before_the_bases() {
    let pair = Pair::new("llama");
    let template = "{% for m in messages %}the {{ m.content }}{% endfor %}";
    fs::write(pair.adapter().join("chat_template.jinja"), template).unwrap();
    let (merged, exported) = (pair.out("merged"), pair.out("exported.gguf"));
    directory::write(&pair.source(), &merged, NumberType::F32).unwrap();
    gguf::write(&pair.source(), &exported, Some(Element::F32)).unwrap();
    let asked = [ChatMessage::new(Role::User, "!")];
    let wanted = pair.merged().tokens().encode_chat(&asked).unwrap();
    for out in [merged, exported] {
        let got = load(&out, None).tokens().encode_chat(&asked).unwrap();
        assert_eq!(got, wanted);
    }
}

#[test]
fn blocks_that_no_adapter_touches_are_kept_and_others_have_8_bits() {
    let pair = Pair::new("llama");
    fs::copy(
        pair.adapter().join("onegen.json"),
        pair.base().join("onegen.json"),
    )
    .unwrap();
    // Rows of 96 columns are whole blocks of 32, those of 48 are not.
    let four = pair.out("four.gguf");
    let alone = Source::open(&pair.base(), None).unwrap();
    gguf::write(&alone, &four, Some(Element::Q4_1)).unwrap();
    let again = pair.out("again.gguf");
    gguf::write(&Source::open(&four, None).unwrap(), &again, None).unwrap();
    assert_eq!(down_type(&again), Some(3));
    assert!(logits(&load(&four, None)) == logits(&load(&again, None)));
    let merged = pair.out("merged.gguf");
    let source = Source::open(&four, Some(&pair.adapter())).unwrap();
    gguf::write(&source, &merged, None).unwrap();
    assert_eq!(down_type(&four), Some(3));
    assert_eq!(down_type(&merged), Some(8));
    let (got, wanted) = (load(&merged, None), load(&pair.adapter(), Some(&four)));
    assert!(difference(&logits(&got), &logits(&wanted)) < 0.1);
}

/// ggml's number of the type of the first layer's down projection.
fn down_type(path: &Path) -> Option<u32> {
    let bytes = fs::read(path).unwrap();
    let name = b"blk.0.ffn_down.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)?;
    let at = at + name.len() + 4 + 16;
    Some(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

#[test]
fn what_is_there_is_not_written_over() {
    let pair = Pair::new("llama");
    let error = directory::write(&pair.source(), &pair.base(), NumberType::F32).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn tokenizers_that_llama_cpp_has_no_name_for_are_refused() {
    let pair = Pair::new("llama");
    let refused = |tokenizer: &Value, why: &str| {
        write(&pair.base().join("tokenizer.json"), tokenizer);
        let error = gguf::write(&pair.source(), &pair.out("no.gguf"), None).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(!pair.out("no.gguf").exists());
    };
    let mut odd = tokenizer();
    odd["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "String": "h" }, "behavior": "Isolated", "invert": false },
        tokenizer()["pre_tokenizer"],
    ]});
    refused(&odd, "none of the names");
    let mut words = tokenizer();
    let vocab = words["model"]["vocab"].clone();
    words["model"] = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "t" });
    refused(&words, "WordLevel");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let (llama, qwen2) = (Pair::new("llama"), Pair::new("qwen2"));
    let error = Source::open(&qwen2.base(), Some(&llama.adapter()))
        .err()
        .unwrap();
    assert!(error.to_string().contains("another base"), "{error}");
}

/// To be run by hand, with a real model: writes both formats and the engine's logits, which
/// `tests/convert/check.py` compares.
#[test]
#[ignore = "needs a base, an adapter and a directory: ONEGEN_BASE, ONEGEN_ADAPTER, ONEGEN_OUT"]
fn a_real_model_is_written_for_transformers_and_gguf() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let (base, adapter, out) = (
        path("ONEGEN_BASE"),
        path("ONEGEN_ADAPTER"),
        path("ONEGEN_OUT"),
    );
    let source = Source::open(&base, Some(&adapter)).unwrap();
    let (merged, exported) = (out.join("merged"), out.join("gguf/f32.gguf"));
    directory::write(&source, &merged, NumberType::F32).unwrap();
    fs::create_dir_all(out.join("gguf")).unwrap();
    gguf::write(&source, &exported, Some(Element::F32)).unwrap();
    gguf::write(&source, &out.join("gguf/kept.gguf"), None).unwrap();
    let wanted = load(&adapter, Some(&base));
    let text = "What is the capital of France? 1234 and other things.";
    let asked = [ChatMessage::new(Role::User, text)];
    let ids = wanted.tokens().encode_chat(&asked).unwrap();
    let forward = |model: &Model| {
        let mut cache = model.new_cache();
        let input = SequenceInput {
            ids: &ids,
            kinds: &vec![SpanKind::Prompt; ids.len()],
            cache: &mut cache,
            hidden_at: &[],
            logits_at: &[ids.len() - 1],
        };
        model
            .forward(&mut [input])
            .unwrap()
            .remove(0)
            .logits
            .remove(0)
    };
    let logits = forward(&wanted);
    for other in [&merged, &exported] {
        let other = load(other, None);
        assert_eq!(other.tokens().encode_chat(&asked).unwrap(), ids);
        assert!(forward(&other) == logits);
    }
    let plain = wanted.tokens().encode_plain(text).unwrap();
    let json = json!({ "text": text, "plain": plain, "ids": ids, "logits": logits });
    write(&out.join("engine.json"), &json);
}
