//! Measures how fast tokens are forwarded: by the model alone, by the engine with several conversations, by
//! a random model with the width of a larger one and weights in 8 and in 4 bits, and by SmolLM2 as it is
//! stored and in 8 bits.
//!
//! `ONEGEN_BENCH_MODEL` names a model directory (the shipped model otherwise) and
//! `ONEGEN_BENCH_WEIGHTS` and `ONEGEN_BENCH_KV` how its matrices, and keys and values, are kept. `ONEGEN_BASE` names SmolLM2's GGUF file; without it that
//! part is left out.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Family, Size, load, load_in, smollm2, write_json};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use futures::executor::block_on;
use onegen_engine::{
    Engine, EngineOptions, KvCache, KvType, LoadOptions, Model, Request, SequenceInput, SpanKind,
    WeightType,
};
use serde_json::Value;
use tempfile::TempDir;

/// Positions that a sequence holds before it decodes.
const PAST: usize = 32;
/// Tokens that a conversation generates.
const TURN: usize = 64;
/// 100 million parameters, which are larger than the processor's caches even in 4 bits.
const LARGE: Size = Size {
    hidden: 1024,
    inner: 4096,
    layers: 6,
};

fn model() -> Arc<Model> {
    load_model(&model_dir())
}

fn model_dir() -> PathBuf {
    std::env::var_os("ONEGEN_BENCH_MODEL").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/almanac")),
        PathBuf::from,
    )
}

fn load_model(dir: &Path) -> Arc<Model> {
    let chosen = |name: &str| std::env::var(name).ok();
    let options = LoadOptions {
        weights: chosen("ONEGEN_BENCH_WEIGHTS").map(|name| name.parse().unwrap()),
        kv: chosen("ONEGEN_BENCH_KV").map_or_else(KvType::default, |name| name.parse().unwrap()),
        ..LoadOptions::default()
    };
    Arc::new(Model::load(dir, &options).unwrap())
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101) % 1900 + 50) as u32)
        .collect()
}

/// Forwards some ids of each sequence, with logits at the end.
fn forward(model: &Model, caches: &mut [KvCache], ids: &[u32]) {
    let kinds = vec![SpanKind::Prompt; ids.len()];
    let end = [ids.len() - 1];
    let mut batch: Vec<_> = caches
        .iter_mut()
        .map(|cache| SequenceInput {
            ids,
            kinds: &kinds,
            cache,
            hidden_at: &[],
            logits_at: &end,
        })
        .collect();
    black_box(model.forward(&mut batch).unwrap());
}

fn bench_model(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for tokens in [128, 512] {
        let ids = ids(tokens, 0);
        let mut caches = [model.new_cache()];
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
            b.iter(|| {
                caches[0].truncate(0);
                forward(&model, &mut caches, &ids);
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("decode");
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    for sequences in [1, 8, 32] {
        let mut caches: Vec<_> = (0..sequences).map(|_| model.new_cache()).collect();
        forward(&model, &mut caches, &ids(PAST, 1));
        group.throughput(Throughput::Elements(sequences as u64));
        group.bench_function(BenchmarkId::from_parameter(sequences), |b| {
            b.iter(|| {
                caches.iter_mut().for_each(|cache| cache.truncate(PAST));
                forward(&model, &mut caches, &[60]);
            });
        });
    }
    group.finish();
}

/// Measures the time from a found passage to the logits of the answer's first token, with passages of 128 and of 512
/// tokens: for passages that see everything, for passages that see only themselves, and for a
/// kept one of the latter.
fn bench_splice(c: &mut Criterion) {
    for tokens in [128, 512] {
        bench_splice_of(c, tokens);
    }
}

fn bench_splice_of(c: &mut Criterion, tokens: usize) {
    let plain = model_dir();
    let mut group = c.benchmark_group(format!("splice of {tokens}"));
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    for attention in ["full", "block"] {
        let dir = with_passage_attention(&plain, attention);
        let model = load_model(dir.path());
        let mut splice = model.tokens().splice(&common::peru()).unwrap();
        splice.passage = ids(tokens, 2);
        let splice = splice.ids();
        let past = (model.max_positions() - splice.len()).min(1024);
        let mut caches = [model.new_cache()];
        forward(&model, &mut caches, &ids(past, 3));
        group.bench_function(attention, |b| {
            b.iter(|| {
                caches[0].truncate(past);
                forward(&model, &mut caches, &splice);
            });
        });
        if attention == "full" {
            continue;
        }
        let (block, close) = splice.split_at(splice.len() - 1);
        let kept = model.passage_kv(&[block.to_vec()]).unwrap();
        group.bench_function("kept", |b| {
            b.iter(|| {
                caches[0].truncate(past);
                model.splice(&mut caches[0], &kept[0]).unwrap();
                forward(&model, &mut caches, close);
            });
        });
    }
    group.finish();
}

/// A copy of a model, which is a directory or the only GGUF file of one, with another `passage_attention` in
/// `onegen.json`.
fn with_passage_attention(model: &Path, attention: &str) -> TempDir {
    let model = match model.parent() {
        Some(parent) if model.is_file() => parent,
        _ => model,
    };
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let file = entry.unwrap().path();
        let file = file.canonicalize().unwrap();
        std::os::unix::fs::symlink(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let said = std::fs::read(model.join("onegen.json")).unwrap();
    let mut onegen: Value = serde_json::from_slice(&said).unwrap();
    onegen["passage_attention"] = attention.into();
    std::fs::remove_file(dir.path().join("onegen.json")).unwrap();
    write_json(dir.path(), "onegen.json", &onegen);
    dir
}

fn bench_engine(c: &mut Criterion) {
    let model = model();
    let engine = Engine::start(model.clone(), None, EngineOptions::default()).unwrap();
    let vocabulary = model.config().vocab_size as u32;
    let ends: Vec<u32> = (0..vocabulary)
        .filter(|id| model.tokens().is_eos(*id))
        .collect();
    let mut group = c.benchmark_group("conversations");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for conversations in [1, 8, 32] {
        group.throughput(Throughput::Elements((conversations * TURN) as u64));
        group.bench_function(BenchmarkId::from_parameter(conversations), |b| {
            b.iter(|| {
                let turns: Vec<_> = (0..conversations)
                    .map(|number| {
                        let mut request = Request::new(format!("{number}"), ids(PAST, number));
                        request.sampling.max_tokens = Some(TURN);
                        request.sampling.logit_bias = ends.iter().map(|id| (*id, -100.0)).collect();
                        block_on(engine.submit(request)).unwrap()
                    })
                    .collect();
                for turn in turns {
                    let name = turn.conversation().clone();
                    assert_eq!(
                        block_on(turn.collect())
                            .unwrap()
                            .summary
                            .usage
                            .completion_tokens,
                        TURN
                    );
                    block_on(engine.delete(&name)).unwrap();
                }
            });
        });
    }
    group.finish();
}

fn bench_weight_types(c: &mut Criterion) {
    // The model is written only when the first of these benchmarks runs, and not if a filter leaves
    // them all out.
    let dir = LazyCell::new(|| Family::Llama.write_sized(LARGE, 1));
    for weights in [
        WeightType::Q8_0,
        WeightType::Q4_1,
        WeightType::Q4_K,
        WeightType::Q4_0,
    ] {
        let model = LazyCell::new(|| load_in(dir.path(), weights));
        bench_weights(c, weights.as_str(), &model);
    }
}

fn bench_smollm2(c: &mut Criterion) {
    let Some(dir) = smollm2() else {
        return;
    };
    let q8_0 = LazyCell::new(|| load_in(dir.path(), WeightType::Q8_0));
    let kept = LazyCell::new(|| load(dir.path()));
    bench_weights(c, "smollm2 in q8_0", &q8_0);
    bench_weights(c, "smollm2 as stored", &kept);
}

fn bench_weights(
    c: &mut Criterion,
    name: &str,
    model: &LazyCell<Arc<Model>, impl FnOnce() -> Arc<Model>>,
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).sampling_mode(SamplingMode::Flat);
    for (what, sequences, past, tokens) in [
        ("prefill of 128", 1, 0, 128),
        ("decode of 1", 1, PAST, 1),
        ("decode of 8", 8, PAST, 1),
    ] {
        let ids: Vec<u32> = (0..PAST.max(tokens) as u32).collect();
        group.throughput(Throughput::Elements((sequences * tokens) as u64));
        group.bench_function(what, |b| {
            let mut caches: Vec<_> = (0..sequences).map(|_| model.new_cache()).collect();
            forward(model, &mut caches, &ids[..PAST]);
            b.iter(|| {
                caches.iter_mut().for_each(|cache| cache.truncate(past));
                forward(model, &mut caches, &ids[..tokens]);
            });
        });
    }
    group.finish();
}

criterion_group!(
    speed,
    bench_model,
    bench_splice,
    bench_engine,
    bench_weight_types,
    bench_smollm2
);
criterion_main!(speed);
