//! The configuration of a training run, a TOML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::data::config::{CourseConfig, DataConfig};
use super::load::Method;
use super::loss::{Contrast, LossRule};

/// A training run. Relative paths count from the directory that the command runs in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// The model to begin with: a Hugging Face directory or a GGUF file. `--base` has priority over
    /// it.
    #[serde(default)]
    pub base: Option<PathBuf>,
    /// The directory with `onegen.json` and, if it differs from the base's, the chat template. `onegen.json`
    /// defines how the control tokens are spelt and what passages attend to (`passage_attention`).
    pub model: PathBuf,
    /// An adapter to begin with, instead of a new one
    #[serde(default)]
    pub start_from: Option<PathBuf>,
    /// What is learnt
    pub method: MethodConfig,
    /// The losses
    #[serde(default)]
    pub loss: LossConfig,
    /// Length and speed
    pub steps: StepsConfig,
    /// The start of the control tokens' rows
    #[serde(default)]
    pub control: ControlConfig,
    /// How dialogues are made from the data
    #[serde(default)]
    pub course: CourseConfig,
    /// The data sets
    pub data: Vec<DataConfig>,
    /// A data set on which the run is measured from time to time, and never trained
    #[serde(default)]
    pub exam: Option<ExamConfig>,
}

/// The part of the model that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MethodConfig {
    /// Every weight
    Full,
    /// A low-rank adapter on all linear layers, and the control tokens' rows
    Lora {
        /// Inner width
        rank: usize,
        /// The adapter is scaled by `alpha / rank`
        alpha: f32,
    },
}

impl From<&MethodConfig> for Method {
    fn from(config: &MethodConfig) -> Self {
        match *config {
            MethodConfig::Full => Self::Whole,
            MethodConfig::Lora { rank, alpha } => Self::LowRank { rank, alpha },
        }
    }
}

/// The losses of a step. `retrieval = 0` trains only generation, `language = 0` only retrieval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// λ_g, the weight of the cross-entropy
    pub language: f32,
    /// λ_r, the weight of the contrastive loss
    pub retrieval: f32,
    /// `info_nce` or `bpr`
    pub contrast: Contrast,
    /// Divides the cosines of `info_nce`
    pub temperature: f32,
    /// How many earlier passages serve as negatives
    pub queue: usize,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            language: 1.0,
            retrieval: 1.0,
            contrast: Contrast::InfoNce,
            temperature: 0.05,
            queue: 512,
        }
    }
}

impl From<&LossConfig> for LossRule {
    fn from(config: &LossConfig) -> Self {
        Self {
            language: config.language,
            retrieval: config.retrieval,
            contrast: config.contrast,
            temperature: config.temperature,
        }
    }
}

/// The type of weights and kept activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// 16 bits, the upper half of an f32. Parameters and sums stay in f32
    #[serde(rename = "bf16")]
    Bf16,
    /// 32 bits, but for frozen matrices of layers and what they are multiplied with, which are rounded to
    /// 8 bits in blocks of 32, as in a model that is served in `q8_0`
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8_0,
}

/// Length and speed of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepsConfig {
    /// Optimiser steps in all
    pub count: usize,
    /// Tokens of a step, at least
    pub tokens: usize,
    /// Forward and backward passes a step, of `tokens` tokens each
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The highest learning rate
    pub rate: f64,
    /// Steps over which it rises
    #[serde(default)]
    pub warm_up: usize,
    /// Share of all steps over which it falls to zero at the end
    #[serde(default)]
    pub decay: f64,
    /// Weight decay
    #[serde(default)]
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm
    #[serde(default = "one_f64")]
    pub clip: f64,
    /// `f32`, `bf16`, or `q8_0` for an adapter
    #[serde(default)]
    pub precision: Precision,
    /// Threads, each with a share of a step's tokens
    #[serde(default = "two")]
    pub threads: usize,
    /// The seed of all random choices
    #[serde(default)]
    pub seed: u64,
    /// Steps between checkpoints
    #[serde(default = "hundred")]
    pub save_every: usize,
    /// Positions of the longest dialogue, passages included
    #[serde(default = "positions")]
    pub positions: usize,
}

fn one() -> usize {
    1
}

fn one_f64() -> f64 {
    1.0
}

fn two() -> usize {
    2
}

fn hundred() -> usize {
    100
}

fn positions() -> usize {
    4096
}

impl StepsConfig {
    /// The learning rate at a step: a rise, a plateau, and a linear decay to zero.
    pub fn rate_at(&self, step: usize) -> f64 {
        let rise = (step + 1) as f64 / self.warm_up.max(1) as f64;
        let falling = self.count as f64 * self.decay;
        let fall = if falling > 0.0 {
            (self.count - step.min(self.count)) as f64 / falling
        } else {
            1.0
        };
        self.rate * rise.min(fall).min(1.0)
    }
}

/// Texts that describe what the control tokens are for. A token's row begins as the mean of the rows of its
/// description's tokens. With an empty description the base's row is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// For `[RQ]`
    pub query: String,
    /// For `[RD]`
    pub passage: String,
    /// For the token before a passage
    pub open: String,
    /// For the token after it
    pub close: String,
    /// For the token behind `[RQ]` of a model that links entities
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub go_on: String,
    /// For other tokens, by spelling
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, String>,
}

/// A data set on which the run is measured every `every` steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExamConfig {
    /// The file of questions
    pub questions: PathBuf,
    /// The file of passages
    pub passages: PathBuf,
    /// Steps between measurements
    pub every: usize,
    /// The most passages, which are also the pool that is searched
    pub limit: usize,
}

impl FitConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown or a value is invalid.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let config: Self =
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
        config
            .check()
            .with_context(|| format!("{} is not valid", path.display()))?;
        Ok(config)
    }

    /// blake3 of the settings that a checkpoint of this run depends on. The number of steps, the times of
    /// checkpoints and the exam may be changed while a run is stopped.
    pub(super) fn identity(&self, base_fingerprint: &str) -> Result<String> {
        let mut lasting = self.clone();
        lasting.base = None;
        lasting.exam = None;
        lasting.steps.count = 0;
        lasting.steps.decay = 0.0;
        lasting.steps.save_every = 0;
        let text = format!("{base_fingerprint} {}", toml::to_string(&lasting)?);
        Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    fn check(&self) -> Result<()> {
        let steps = &self.steps;
        ensure!(steps.count > 0, "steps.count must be at least 1");
        ensure!(steps.tokens > 0, "steps.tokens must be at least 1");
        ensure!(steps.accumulate > 0, "steps.accumulate must be at least 1");
        ensure!(
            (1..=256).contains(&steps.threads),
            "steps.threads must be between 1 and 256"
        );
        ensure!(steps.rate > 0.0, "steps.rate must be above 0");
        ensure!(steps.save_every > 0, "steps.save_every must be at least 1");
        ensure!(
            (0.0..=1.0).contains(&steps.decay),
            "steps.decay is a share between 0 and 1"
        );
        ensure!(
            self.loss.temperature > 0.0,
            "loss.temperature must be above 0"
        );
        ensure!(
            self.loss.language > 0.0 || self.loss.retrieval > 0.0,
            "loss.language and loss.retrieval are both 0: nothing would be learnt"
        );
        if let MethodConfig::Lora { rank, .. } = self.method {
            ensure!(rank > 0, "method.rank must be at least 1");
        }
        ensure!(!self.data.is_empty(), "there is no [[data]] to learn from");
        Ok(())
    }
}
