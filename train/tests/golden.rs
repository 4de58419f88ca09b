//! Losses and gradients are those of PyTorch, from the golden files of
//! `train/tests/golden/make.py`.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use onegen_engine::ModelFiles;
use onegen_train::fit::adapter;
use onegen_train::fit::bench::FixedBatch;
use onegen_train::fit::decoder::Decoder;
use onegen_train::fit::load::{ControlRow, Method};
use onegen_train::fit::loss::{Contrast, LossRule};
use onegen_train::fit::parameters::{Gradients, Parameters};
use onegen_train::fit::step::{step, sum};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct AdapterConfig {
    r: usize,
    lora_alpha: f32,
    trainable_token_indices: HashMap<String, Vec<u32>>,
}

#[derive(Deserialize)]
struct Losses {
    ce: f64,
    info_nce: f64,
    bpr: f64,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn json<T: serde::de::DeserializeOwned>(path: &str) -> T {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

fn tensors(path: &str) -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(golden(path)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| {
        let words = data.chunks_exact(4);
        words
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), floats(view.data())))
        .collect()
}

/// A model of the golden files, its parameters and a batch.
struct Case {
    decoder: Decoder<f32>,
    parameters: Parameters,
    batch: FixedBatch,
}

impl Case {
    fn new(family: &str, low_rank: bool) -> Self {
        let files = ModelFiles::open(&golden(family)).unwrap();
        let batch = FixedBatch::load(&golden("batch.json")).unwrap();
        let config: AdapterConfig = json(&format!("{family}/adapter/adapter_config.json"));
        let (method, control) = if low_rank {
            let ids = &config.trainable_token_indices["embed_tokens"];
            let rows = ids.iter().map(|id| ControlRow {
                id: *id,
                described_by: vec![],
            });
            let method = Method::LowRank {
                rank: config.r,
                alpha: config.lora_alpha,
            };
            (method, rows.collect())
        } else {
            (Method::Whole, vec![])
        };
        let (mut decoder, mut parameters) =
            Decoder::load(&files, &method, &control, 128, 0).unwrap();
        if low_rank {
            adapter::read(&golden(&format!("{family}/adapter")), &mut parameters).unwrap();
            decoder.refresh(&parameters);
        }
        Self {
            decoder,
            parameters,
            batch,
        }
    }

    /// Both losses, and the gradients of the two together.
    fn step(
        &self,
        language: f32,
        retrieval: f32,
        contrast: Contrast,
        threads: usize,
    ) -> (f64, f64, Gradients) {
        let queue = self.batch.queue();
        let mut shares = vec![Vec::new(); threads];
        for (at, pack) in self.batch.packs.iter().enumerate() {
            shares[at % threads].push(pack.clone());
        }
        let rule = LossRule {
            language,
            retrieval,
            contrast,
            temperature: self.batch.temperature,
        };
        let mut gradients = vec![self.parameters.zeros(); threads];
        let outcome = step(&self.decoder, &shares, &queue, &rule, &mut gradients).unwrap();
        let score = outcome.score;
        (
            score.language / score.targets as f64,
            score.retrieval / score.queries as f64,
            sum(&mut gradients).unwrap().clone(),
        )
    }

    /// Asserts that each parameter's gradient is the golden one, up to the rounding of f32.
    fn assert_gradients(
        &self,
        gradients: &Gradients,
        golden: &HashMap<String, Vec<f32>>,
        prefix: &str,
    ) {
        for (id, parameter) in self.parameters.ids() {
            let expected = &golden[&format!("{prefix}{}", parameter.name)];
            let got = gradients.get(id);
            assert_eq!(got.len(), expected.len(), "{}", parameter.name);
            let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (got - expected).abs() <= 1e-4 * largest.max(1e-3),
                    "{prefix}{}: {got} where PyTorch has {expected} (at most {largest})",
                    parameter.name
                );
            }
        }
    }
}

fn close(got: f64, expected: f64) {
    assert!(
        (got - expected).abs() < 1e-5 * expected.abs(),
        "{got} is not {expected}"
    );
}

const FAMILIES: [&str; 3] = ["llama", "qwen2", "qwen3"];

#[test]
fn whole_models_have_pytorchs_losses_and_gradients() {
    for family in FAMILIES {
        let case = Case::new(family, false);
        let losses: HashMap<String, Losses> = json(&format!("{family}/losses.json"));
        let losses = &losses["full"];
        let golden = tensors(&format!("{family}/full.safetensors"));
        let batch = &case.batch;
        for threads in [1, 2] {
            let (ce, nce, gradients) =
                case.step(batch.lambda_g, batch.lambda_r, Contrast::InfoNce, threads);
            close(ce, losses.ce);
            close(nce, losses.info_nce);
            case.assert_gradients(&gradients, &golden, "");
        }
        let (_, bpr, _) = case.step(1.0, 1.0, Contrast::Bpr, 1);
        close(bpr, losses.bpr);
    }
}

#[test]
fn adapters_have_pytorchs_losses_and_gradients() {
    for family in FAMILIES {
        let case = Case::new(family, true);
        let losses: HashMap<String, Losses> = json(&format!("{family}/losses.json"));
        let losses = &losses["lora"];
        let golden = tensors(&format!("{family}/lora.safetensors"));
        let (ce, _, gradients) = case.step(1.0, 0.0, Contrast::InfoNce, 2);
        close(ce, losses.ce);
        case.assert_gradients(&gradients, &golden, "ce/");
        let (_, nce, gradients) = case.step(0.0, 1.0, Contrast::InfoNce, 2);
        close(nce, losses.info_nce);
        case.assert_gradients(&gradients, &golden, "info_nce/");
        let (_, bpr, gradients) = case.step(0.0, 1.0, Contrast::Bpr, 2);
        close(bpr, losses.bpr);
        if family == "llama" {
            case.assert_gradients(&gradients, &golden, "bpr/");
        }
    }
}

#[test]
fn frozen_matrices_in_8_bits_have_nearly_those_losses_and_gradients() {
    for family in FAMILIES {
        let mut case = Case::new(family, true);
        let exact = case.step(1.0, 1.0, Contrast::InfoNce, 2);
        case.decoder.quantise();
        let rounded = case.step(1.0, 1.0, Contrast::InfoNce, 2);
        for (exact, rounded) in [(exact.0, rounded.0), (exact.1, rounded.1)] {
            let apart = (exact - rounded).abs() / exact;
            assert!(apart > 0.0, "{family}: nothing was rounded");
            assert!(apart < 0.01, "{family}: {rounded} instead of {exact}");
        }
        let (mut dot, mut squares) = (0.0, [0.0; 2]);
        for (id, _) in case.parameters.ids() {
            for (a, b) in exact.2.get(id).iter().zip(rounded.2.get(id)) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                dot += a * b;
                squares[0] += a * a;
                squares[1] += b * b;
            }
        }
        let cosine = dot / (squares[0] * squares[1]).sqrt();
        assert!(cosine > 0.99, "{family}: the gradient's cosine is {cosine}");
    }
}
