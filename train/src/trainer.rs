//! The training loop: draw, forward, backward, step, log, measure, save.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::loss::{Losses, losses};
use crate::model::{Model, Shape};
use crate::optimiser::{Gradients, Optimiser, Rates};

/// A stage of the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// "Repeat: Orm; Vass; 1203." until unseen lists come back exactly
    Copying,
    /// Several attributes of one passage
    Reading,
    /// The dialogues that the model is for
    Target,
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Optimiser steps in all
    pub steps: usize,
    /// Copying ends when this share of unseen lists comes back exactly…
    pub copying_goal: f64,
    /// …or after so many steps
    pub copying_steps: usize,
    /// Steps of reading after that
    pub reading_steps: usize,
    /// Tokens a step while copying
    pub copying_tokens: usize,
    /// Tokens a step after that
    pub tokens: usize,
    /// The highest learning rates
    pub rates: Rates,
    /// Divides the cosines
    pub temperature: f64,
    /// Weight of the contrastive loss when the target lessons begin and at the end
    pub retrieval_weight: (f64, f64),
    /// Threads, each with a share of every step's tokens
    pub threads: usize,
    /// The seed of all random choices
    pub seed: u64,
}

const WARM_UP: usize = 50;
/// The share of steps over which the learning rates decay to zero.
const DECAY: f64 = 0.4;
const LOG_EVERY: usize = 25;
const SAVE_EVERY: usize = 250;
/// Batches whose passages a thread remembers: about 800 passages.
const REMEMBERED: usize = 32;

impl Plan {
    /// The share of the highest learning rate at `step`: a short rise, a plateau, and a linear
    /// decay.
    fn share(&self, step: usize) -> f64 {
        let left = (self.steps - step) as f64 / (self.steps as f64 * DECAY);
        ((step + 1) as f64 / WARM_UP as f64).min(left).min(1.0)
    }

    fn retrieval_weight(&self, state: &State) -> f64 {
        let (first, last) = self.retrieval_weight;
        match state.stage {
            Stage::Copying => 0.0,
            Stage::Reading => first,
            Stage::Target => {
                let done = (state.step - state.stage_began) as f64
                    / (self.steps - state.stage_began) as f64;
                first + (last - first) * (2.0 * done).min(1.0)
            }
        }
    }

    fn tokens(&self, stage: Stage) -> usize {
        if stage == Stage::Copying {
            self.copying_tokens
        } else {
            self.tokens
        }
    }
}

/// Provides the lessons and the measurement of a task.
pub trait Curriculum: Sync {
    /// A batch of at least `tokens` tokens; the same seed gives the same batch.
    fn batch(&self, stage: Stage, tokens: usize, seed: u64) -> Result<Batch>;
    /// A line for the log: how good the model is if the right texts are given.
    fn measure(&self, model: &Model, temperature: f64) -> Result<String>;
}

/// The state of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct State {
    /// Steps done
    pub step: usize,
    /// The current stage
    pub stage: Stage,
    /// The step at which it began
    pub stage_began: usize,
    /// Tokens seen
    pub tokens: usize,
    /// Seconds spent
    pub seconds: f64,
}

/// A run: the model, its optimiser and its state.
pub struct Run {
    /// The model
    pub model: Model,
    optimiser: Optimiser,
    /// The state
    pub state: State,
    directory: PathBuf,
    /// For each thread the passages of its last batches. They are further negatives at no cost, as
    /// long as the weights change slowly (cross-batch memory, Wang et al. 2020)
    memories: Vec<VecDeque<Tensor>>,
}

impl Run {
    /// Continues from the checkpoint in `directory`, or begins a new run there.
    pub fn open(directory: &Path, shape: Shape, seed: u64) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let (state, weights, memory) = files(directory);
        if state.exists() {
            let state = serde_json::from_slice(&std::fs::read(&state)?)
                .with_context(|| format!("{} is damaged", state.display()))?;
            let model = Model::load(shape, &weights)?;
            let optimiser = Optimiser::load(&model, &memory)?;
            return Ok(Self {
                model,
                optimiser,
                state,
                directory: directory.to_owned(),
                memories: vec![],
            });
        }
        Self::begin(directory, Model::new(shape, seed)?, Stage::Copying)
    }

    /// Continues from the checkpoint in `directory`, or begins a new run there with the weights of
    /// `model`.
    pub fn open_after(directory: &Path, model: Model) -> Result<Self> {
        if files(directory).0.exists() {
            Self::open(directory, model.shape, 0)
        } else {
            Self::begin(directory, model, Stage::Target)
        }
    }

    fn begin(directory: &Path, model: Model, stage: Stage) -> Result<Self> {
        let optimiser = Optimiser::new(&model)?;
        let state = State {
            step: 0,
            stage,
            stage_began: 0,
            tokens: 0,
            seconds: 0.0,
        };
        Ok(Self {
            model,
            optimiser,
            state,
            directory: directory.to_owned(),
            memories: vec![],
        })
    }

    fn save(&self) -> Result<()> {
        let (state, weights, memory) = files(&self.directory);
        // The state is written last, so that the files that it describes exist.
        self.model.save(&weights, candle_core::DType::F32)?;
        self.optimiser.save(&self.model, &memory)?;
        std::fs::write(&state, serde_json::to_vec_pretty(&self.state)?)
            .with_context(|| format!("cannot write {}", state.display()))
    }

    /// Trains to the end of the plan.
    pub fn train(
        &mut self,
        plan: &Plan,
        teacher: &dyn Curriculum,
        examiner: &dyn Curriculum,
    ) -> Result<()> {
        let mut window = Window::default();
        let mut clock = Instant::now();
        while self.state.step < plan.steps {
            let share = plan.share(self.state.step);
            let weight = plan.retrieval_weight(&self.state);
            let parts = self.forward_backward(plan, teacher, weight)?;
            let mut gradients: Gradients = self.model.weights.iter().map(|_| None).collect();
            self.memories.resize_with(plan.threads, VecDeque::new);
            for (part, memory) in parts.into_iter().zip(&mut self.memories) {
                memory.extend(part.losses.passages.clone());
                memory.drain(..memory.len().saturating_sub(REMEMBERED));
                self.state.tokens += part.tokens;
                window.add(&part.losses)?;
                for (sum, gradient) in gradients.iter_mut().zip(part.gradients) {
                    *sum = match (sum.take(), gradient) {
                        (Some(sum), Some(gradient)) => Some((sum + gradient)?),
                        (sum, gradient) => sum.or(gradient),
                    };
                }
            }
            // Each part's loss is a mean, and the step's loss is the mean of these.
            for gradient in gradients.iter_mut().flatten() {
                *gradient = (&*gradient / plan.threads as f64)?;
            }
            let rates = Rates {
                muon: plan.rates.muon * share,
                adam: plan.rates.adam * share,
            };
            let norm = self
                .optimiser
                .step(&self.model, &gradients, rates, plan.threads)?;
            self.state.step += 1;
            let last = self.state.step == plan.steps;
            if self.state.step.is_multiple_of(LOG_EVERY) || last {
                self.state.seconds += clock.elapsed().as_secs_f64();
                clock = Instant::now();
                println!(
                    "{:?} step {} tokens {:.2}M {:.0}s rate {share:.2} norm {norm:.2} {window}",
                    self.state.stage,
                    self.state.step,
                    self.state.tokens as f64 / 1e6,
                    self.state.seconds
                );
                self.next_stage(plan, &window);
                window = Window::default();
            }
            if self.state.step.is_multiple_of(SAVE_EVERY) || last {
                self.save()?;
                if self.state.stage != Stage::Copying {
                    println!("{}", examiner.measure(&self.model, plan.temperature)?);
                }
            }
        }
        Ok(())
    }

    fn next_stage(&mut self, plan: &Plan, window: &Window) {
        let done = self.state.step - self.state.stage_began;
        let next = match self.state.stage {
            Stage::Copying if window.exact() >= plan.copying_goal || done >= plan.copying_steps => {
                Stage::Reading
            }
            Stage::Reading if done >= plan.reading_steps => Stage::Target,
            _ => return,
        };
        (self.state.stage, self.state.stage_began) = (next, self.state.step);
    }

    /// Each thread draws its own lessons and runs them forward and backward.
    fn forward_backward(
        &self,
        plan: &Plan,
        teacher: &dyn Curriculum,
        weight: f64,
    ) -> Result<Vec<Part>> {
        let (model, stage) = (&self.model, self.state.stage);
        let part = |thread: usize| -> Result<Part> {
            let seed = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ (self.state.step * plan.threads + thread) as u64;
            let remembered: Vec<&Tensor> = self
                .memories
                .iter()
                .skip(thread)
                .take(1)
                .flatten()
                .collect();
            let others = match remembered.as_slice() {
                [] => None,
                remembered => Some(Tensor::cat(remembered, 0)?),
            };
            let batch = teacher.batch(stage, plan.tokens(stage) / plan.threads, seed)?;
            let losses = losses(model, &batch, plan.temperature, others.as_ref())?;
            let total = (&losses.language + (&losses.retrieval * weight)?)?;
            let mut store = total.backward()?;
            let gradients = model
                .weights
                .iter()
                .map(|weight| store.remove(weight.var.as_tensor()))
                .collect();
            Ok(Part {
                tokens: batch.ids.len(),
                gradients,
                losses,
            })
        };
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..plan.threads)
                .map(|thread| {
                    let part = &part;
                    scope.spawn(move || part(thread))
                })
                .collect();
            handles
                .into_iter()
                .map(|handle| {
                    handle
                        .join()
                        .map_err(|_| anyhow!("a training thread panicked"))?
                })
                .collect()
        })
    }
}

fn files(directory: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (
        directory.join("state.json"),
        directory.join("weights.safetensors"),
        directory.join("optimiser.safetensors"),
    )
}

/// One thread's share of a step.
struct Part {
    tokens: usize,
    gradients: Vec<Option<Tensor>>,
    losses: Losses,
}

/// Sums over the steps since the last line of the log.
#[derive(Default)]
struct Window {
    parts: usize,
    language: f64,
    retrieval: f64,
    groups: (usize, usize),
    found: (usize, usize),
}

impl Window {
    fn add(&mut self, losses: &Losses) -> Result<()> {
        let count = |all: &[bool]| (all.iter().filter(|right| **right).count(), all.len());
        self.parts += 1;
        self.language += f64::from(losses.language.to_scalar::<f32>()?);
        self.retrieval += f64::from(losses.retrieval.to_scalar::<f32>()?);
        for (sum, (right, all)) in [
            (&mut self.groups, count(&losses.groups)),
            (&mut self.found, count(&losses.found)),
        ] {
            *sum = (sum.0 + right, sum.1 + all);
        }
        Ok(())
    }

    /// The share of target groups in which every token was the most likely one.
    fn exact(&self) -> f64 {
        self.groups.0 as f64 / self.groups.1.max(1) as f64
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.parts.max(1) as f64;
        let found = self.found.0 as f64 / self.found.1.max(1) as f64;
        write!(
            f,
            "ce {:.3} nce {:.3} exact {:.3} found {found:.3}",
            self.language / parts,
            self.retrieval / parts,
            self.exact()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lessons::Teacher;
    use crate::phrases::Wording;
    use crate::tokenizer::Vocabulary;
    use crate::world::Split;
    use std::collections::HashSet;

    fn plan(steps: usize) -> Plan {
        Plan {
            steps,
            copying_goal: 1.0,
            copying_steps: 4,
            reading_steps: 4,
            copying_tokens: 400,
            tokens: 1200,
            rates: Rates {
                muon: 0.02,
                adam: 0.004,
            },
            temperature: 0.05,
            retrieval_weight: (0.1, 1.0),
            threads: 2,
            seed: 3,
        }
    }

    fn shape(vocabulary: &Vocabulary) -> Shape {
        Shape {
            vocab_size: vocabulary.size(),
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            head_dim: 16,
            max_position_embeddings: 512,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
        }
    }

    #[test]
    fn training_lowers_the_loss_and_its_checkpoint_holds_the_same_weights() -> Result<()> {
        let reserved = HashSet::new();
        let vocabulary = Vocabulary::train(&crate::lessons::texts(&reserved, 300), 400)?;
        let teacher = Teacher {
            vocabulary: &vocabulary,
            reserved: &reserved,
            split: Split::Train,
            wording: Wording::Known,
            longest: 500,
        };
        let loss = |model: &Model| -> Result<f32> {
            let batch = teacher.draw(Stage::Target, 2000, 77)?.batch;
            Ok(losses(model, &batch, 0.05, None)?.language.to_scalar()?)
        };
        let whole = tempfile::tempdir()?;
        let mut run = Run::open(whole.path(), shape(&vocabulary), 5)?;
        let first = loss(&run.model)?;
        run.train(&plan(LOG_EVERY * 2), &teacher, &teacher)?;
        let last = loss(&run.model)?;
        assert!(last < first - 0.5, "the loss went from {first} to {last}");

        let again = Run::open(whole.path(), shape(&vocabulary), 5)?;
        assert_eq!(again.state.step, LOG_EVERY * 2);
        for (kept, read) in run.model.weights.iter().zip(&again.model.weights) {
            assert_eq!(
                kept.var.flatten_all()?.to_vec1::<f32>()?,
                read.var.flatten_all()?.to_vec1::<f32>()?,
                "{}",
                kept.name
            );
        }
        Ok(())
    }
}
