//! Times a training step on a fixed batch, for the comparison in
//! `train/benches/against_pytorch.py`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use half::bf16;
use onegen_engine::ModelFiles;
use serde::Deserialize;

use super::config::Precision;
use super::decoder::Decoder;
use super::load::{ControlRow, Method};
use super::loss::{Contrast, LossRule, Queue};
use super::pack::Pack;
use super::parameters::{AdamW, Gradients, Rule};
use super::product::Element;
use super::step::{shares, step, sum};

/// A fixed batch, as `train/tests/golden/make.py` describes it.
#[derive(Deserialize)]
pub struct FixedBatch {
    /// λ_g
    pub lambda_g: f32,
    /// λ_r
    pub lambda_r: f32,
    /// Divides the cosines
    pub temperature: f32,
    queue: Vec<QueuedPassage>,
    /// The packs to train on
    pub packs: Vec<Pack>,
}

#[derive(Deserialize)]
struct QueuedPassage {
    key: u32,
    vector: Vec<f32>,
}

impl FixedBatch {
    /// Reads a batch.
    ///
    /// # Errors
    /// The file cannot be read, or is not a batch.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let not_one = || format!("{} is no batch", path.display());
        let batch: Self = serde_json::from_slice(&text).with_context(not_one)?;
        for pack in &batch.packs {
            pack.check().with_context(not_one)?;
        }
        Ok(batch)
    }

    /// The passages of earlier steps.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::default();
        let queued = self.queue.iter();
        queue.push(
            queued.map(|queued| (queued.key, queued.vector.clone())),
            usize::MAX,
        );
        queue
    }
}

/// How a bench runs.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Steps after one to warm up
    pub steps: usize,
    /// Threads
    pub threads: usize,
    /// The type of weights and kept activations
    pub precision: Precision,
}

/// Runs steps of a rank-32 adapter on a batch and returns a line of JSON: tokens and seconds of all steps,
/// the losses of the first, and the largest resident set size.
///
/// # Errors
/// The model or the batch cannot be read.
pub fn bench(base: &Path, batch: &Path, options: BenchOptions) -> Result<String> {
    match options.precision {
        Precision::F32 | Precision::Q8_0 => run::<f32>(base, batch, options),
        Precision::Bf16 => run::<bf16>(base, batch, options),
    }
}

fn run<E: Element>(base: &Path, path: &Path, options: BenchOptions) -> Result<String> {
    let batch = FixedBatch::load(path)?;
    let files = ModelFiles::open(base)?;
    let method = Method::LowRank {
        rank: 32,
        alpha: 32.0,
    };
    let control = [7, 9, 5, 4].map(|id| ControlRow {
        id,
        described_by: vec![],
    });
    let (mut decoder, mut parameters) = Decoder::<E>::load(&files, &method, &control, 2048, 0)?;
    if options.precision == Precision::Q8_0 {
        decoder.quantise();
    }
    let mut queue = Queue::default();
    let queued = batch.queue.into_iter();
    queue.push(queued.map(|queued| (queued.key, queued.vector)), usize::MAX);
    let rule = LossRule {
        language: batch.lambda_g,
        retrieval: batch.lambda_r,
        contrast: Contrast::InfoNce,
        temperature: batch.temperature,
    };
    let mut optimiser = AdamW::new(&parameters);
    let mut gradients: Vec<Gradients> = (0..options.threads).map(|_| parameters.zeros()).collect();
    let shares = shares(batch.packs, options.threads);
    let (mut tokens, mut losses, mut began) = (0, (0.0, 0.0), Instant::now());
    for number in 0..=options.steps {
        gradients.iter_mut().for_each(Gradients::clear);
        let outcome = step(&decoder, &shares, &queue, &rule, &mut gradients)?;
        let adam = Rule {
            rate: 1e-3,
            decay: 0.0,
            beta: (0.9, 0.99),
            clip: 1.0,
        };
        optimiser.step(&mut parameters, sum(&mut gradients)?, &adam);
        decoder.refresh(&parameters);
        if number == 0 {
            let score = outcome.score;
            losses = (
                score.language / score.targets.max(1) as f64,
                score.retrieval / score.queries.max(1) as f64,
            );
            began = Instant::now();
        } else {
            tokens += outcome.tokens;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(format!(
        r#"{{"tokens": {tokens}, "seconds": {seconds:.3}, "peak_rss_mib": {:.0}, "language": {:.4}, "retrieval": {:.4}, "precision": {}}}"#,
        peak_rss_mib(),
        losses.0,
        losses.1,
        serde_json::to_string(&options.precision)?
    ))
}

/// The largest resident set size of this process so far; 0 if the system does not report it.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
