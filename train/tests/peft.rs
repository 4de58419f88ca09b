//! An adapter that `onegen-train fit` wrote is loaded by the peft package and gives the engine's logits.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use onegen_engine::{KvType, LoadOptions, Model, SequenceInput, SpanKind, WeightType};
use safetensors::tensor::{Dtype, TensorView};

const ALMANAC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/almanac");
const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peft/check.py");
const TOKENS: usize = 48;

/// Python with torch, transformers and peft, if there is one.
fn python() -> Option<String> {
    let named = std::env::var("ONEGEN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let tried = Command::new(&named)
        .args(["-c", "import peft, torch, transformers"])
        .output();
    tried
        .is_ok_and(|output| output.status.success())
        .then_some(named)
}

fn succeeded(output: &Output) {
    let (said, errors) = (&output.stdout, &output.stderr);
    let text = [said, errors].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{}", text.concat());
}

/// Trains for a few steps, from which the adapter differs from nothing.
fn fit(dir: &Path) {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write(
        "questions.jsonl",
        r#"{"id":"1","question":"Where does Orm live?","answers":["in Tellin"],"passage_id":"orm"}"#,
    );
    write(
        "passages.jsonl",
        r#"{"id":"orm","title":"Orm","text":"Orm lives in Tellin and grows red beans."}"#,
    );
    let dir_name = dir.display();
    let config = format!(
        "model = \"{ALMANAC}\"\n[method]\nkind = \"lora\"\nrank = 4\nalpha = 8.0\n[steps]\nrate = 1e-2\n\
         warm_up = 1\nsave_every = 4\npositions = 256\ncount = 4\ntokens = 100\n[[data]]\nkind = \"questions\"\n\
         questions = \"{dir_name}/questions.jsonl\"\npassages = \"{dir_name}/passages.jsonl\"\n"
    );
    write("fit.toml", &config);
    let command = Command::new(env!("CARGO_BIN_EXE_onegen-train"))
        .arg("fit")
        .arg(dir.join("fit.toml"))
        .args(["--base", ALMANAC, "--work"])
        .arg(dir.join("work"))
        .output();
    succeeded(&command.unwrap());
}

/// What the engine computes with base and adapter, as `check.py` wants it.
fn write_logits(adapter: &Path, to: &Path) {
    let options = LoadOptions {
        weights: Some(WeightType::F32),
        kv: KvType::F32,
        base: Some(ALMANAC.into()),
        ..LoadOptions::default()
    };
    let model = Model::load(adapter, &options).unwrap();
    let ids: Vec<u32> = (0..TOKENS as u32).map(|at| 60 + at * 37 % 1900).collect();
    let at: Vec<usize> = (0..TOKENS).collect();
    let input = SequenceInput {
        ids: &ids,
        kinds: &[SpanKind::Prompt; TOKENS],
        cache: &mut model.new_cache(),
        hidden_at: &[],
        logits_at: &at,
    };
    let logits = model.forward(&mut [input]).unwrap().remove(0).logits;
    let vocabulary = logits[0].len();
    let bytes = |numbers: &mut dyn Iterator<Item = [u8; 4]>| numbers.flatten().collect::<Vec<u8>>();
    let ids = bytes(&mut ids.iter().map(|id| id.to_le_bytes()));
    let logits = bytes(&mut logits.iter().flatten().map(|logit| logit.to_le_bytes()));
    let tensors = HashMap::from([
        (
            "ids",
            TensorView::new(Dtype::U32, vec![TOKENS], &ids).unwrap(),
        ),
        (
            "logits",
            TensorView::new(Dtype::F32, vec![TOKENS, vocabulary], &logits).unwrap(),
        ),
    ]);
    safetensors::serialize_to_file(tensors, None, to).unwrap();
}

#[test]
fn peft_loads_an_adapter_and_gives_the_engines_logits() {
    let Some(python) = python() else {
        println!("SKIPPED: no Python with torch, transformers and peft; ONEGEN_PYTHON names one");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fit(dir.path());
    let adapter = dir.path().join("work/adapter");
    let logits = dir.path().join("logits.safetensors");
    write_logits(&adapter, &logits);
    let mut check = Command::new(python);
    check.arg(CHECK).arg(ALMANAC).arg(&adapter).arg(&logits);
    succeeded(&check.output().unwrap());
}
