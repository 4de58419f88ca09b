//! Loads a decoder to train from a model's files.

use anyhow::{Context, Result, bail, ensure};
use onegen_engine::{ModelConfig, ModelFiles, Tensors};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::decoder::{Decoder, Layer, LearntRows, Norm, Table};
use super::elementwise::Rotations;
use super::linear::{Linear, TwoWayMatrix};
use super::parameters::{Parameter, ParameterId, Parameters};
use super::product::Element;

/// The part of a model that is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Every weight
    Whole,
    /// A low-rank adapter on all linear layers (Hu et al. 2021)
    LowRank {
        /// Inner width of the adapter
        rank: usize,
        /// The adapter is scaled by `alpha / rank`
        alpha: f32,
    },
}

/// A control token. Its rows are always trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRow {
    /// Its id
    pub id: u32,
    /// A description of its purpose: its row begins as the mean of these tokens' rows
    pub described_by: Vec<u32>,
}

/// The prefix of all names in a PEFT adapter.
const PEFT: &str = "base_model.model.";

impl<E: Element> Decoder<E> {
    /// Reads a model and creates its parameters, whose random start is determined by `seed`. Up to
    /// `positions` positions can be forwarded.
    ///
    /// # Errors
    /// The files cannot be read, or this kind of model cannot be trained here.
    pub fn load(
        files: &ModelFiles,
        method: &Method,
        control: &[ControlRow],
        positions: usize,
        seed: u64,
    ) -> Result<(Self, Parameters)> {
        let config = files.config().clone();
        ensure!(
            !config.output_bias,
            "models with a bias on the output projection cannot be trained"
        );
        if let Some(window) = config.sliding_window {
            ensure!(
                positions <= window.positions,
                "texts of {positions} tokens are longer than the model's window of {}",
                window.positions
            );
        }
        let mut loader = Loader {
            tensors: files.tensors()?,
            config: &config,
            method,
            control,
            parameters: Parameters::default(),
            rng: StdRng::seed_from_u64(seed),
        };
        let layers = (0..config.num_hidden_layers).map(|at| loader.layer(at));
        let layers = layers.collect::<Result<_>>()?;
        let norm = loader.norm("model.norm.weight", config.hidden_size)?;
        let (embedding, head) = if config.tie_word_embeddings {
            (
                None,
                loader.table(loader.tensors.embedding_name(), "embed_tokens")?,
            )
        } else {
            (
                Some(loader.table("model.embed_tokens.weight", "embed_tokens")?),
                loader.table("lm_head.weight", "lm_head")?,
            )
        };
        let parameters = loader.parameters;
        let mut decoder = Self {
            rotations: Rotations::new(&config.rotary_frequencies(), positions),
            config,
            layers,
            norm,
            head,
            embedding,
        };
        decoder.refresh(&parameters);
        Ok((decoder, parameters))
    }
}

struct Loader<'a> {
    tensors: Tensors,
    config: &'a ModelConfig,
    method: &'a Method,
    control: &'a [ControlRow],
    parameters: Parameters,
    rng: StdRng,
}

impl Loader<'_> {
    fn layer<E: Element>(&mut self, at: usize) -> Result<Layer<E>> {
        let config = self.config;
        let name = |rest: &str| format!("model.layers.{at}.{rest}");
        let hidden = config.hidden_size;
        let projections = config.projections();
        let mut linear = Vec::with_capacity(projections.len());
        for (which, (part, shape)) in projections.into_iter().enumerate() {
            let biased = config.qkv_bias && which < 3;
            linear.push(self.linear(&name(part), shape, biased)?);
        }
        let Ok(linear) = <[Linear<E>; 7]>::try_from(linear) else {
            bail!("a layer has {} linear layers", projections.len());
        };
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm.weight"), hidden)?,
            mlp_norm: self.norm(&name("post_attention_layernorm.weight"), hidden)?,
            qk_norm: if config.qk_norm {
                Some([
                    self.norm(&name("self_attn.q_norm.weight"), config.head_dim)?,
                    self.norm(&name("self_attn.k_norm.weight"), config.head_dim)?,
                ])
            } else {
                None
            },
            linear,
        })
    }

    fn linear<E: Element>(
        &mut self,
        name: &str,
        (outputs, inner): (usize, usize),
        biased: bool,
    ) -> Result<Linear<E>> {
        let weight = format!("{name}.weight");
        let matrix = self.tensors.matrix(&weight, outputs, inner)?;
        let bias_name = format!("{name}.bias");
        let bias = if biased {
            Some(self.tensors.vector(&bias_name, outputs)?)
        } else {
            None
        };
        let mut linear = Linear::frozen(&matrix, bias.clone(), (outputs, inner));
        match *self.method {
            Method::Whole => {
                let weight = self.parameter(weight, (outputs, inner), matrix);
                let bias = bias.map(|bias| self.vector(bias_name, bias));
                linear.learn_whole(weight, bias);
            }
            Method::LowRank { rank, alpha } => {
                // PEFT's initialisation: `A` is uniform with the bound one over the square root of
                // its width, and `B` is zero.
                let bound = (inner as f32).powf(-0.5);
                let a = (0..rank * inner).map(|_| self.rng.random_range(-bound..bound));
                let a = a.collect();
                let a = self.parameter(format!("{PEFT}{name}.lora_A.weight"), (rank, inner), a);
                let b = self.parameter(
                    format!("{PEFT}{name}.lora_B.weight"),
                    (outputs, rank),
                    vec![0.0; outputs * rank],
                );
                linear.learn_low_rank(a, b, rank, alpha / rank as f32);
            }
        }
        Ok(linear)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Norm> {
        let weight = self.tensors.vector(name, len)?;
        let learnt = match self.method {
            Method::Whole => Some(self.vector(name.to_owned(), weight.clone())),
            Method::LowRank { .. } => None,
        };
        Ok(Norm { weight, learnt })
    }

    fn table<E: Element>(&mut self, name: &str, module: &str) -> Result<Table<E>> {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let mut matrix = self.tensors.matrix(name, vocab, hidden)?;
        let mut rows = Vec::with_capacity(self.control.len() * hidden);
        for control in self.control {
            let row = |id: u32| {
                let start = id as usize * hidden;
                let row = matrix.get(start..start + hidden);
                row.with_context(|| format!("the vocabulary has no token {id}"))
            };
            let mut mean = row(control.id)?.to_vec();
            if !control.described_by.is_empty() {
                mean.fill(0.0);
                for id in &control.described_by {
                    for (mean, x) in mean.iter_mut().zip(row(*id)?) {
                        *mean += x / control.described_by.len() as f32;
                    }
                }
            }
            rows.extend(mean);
        }
        for (control, row) in self.control.iter().zip(rows.chunks_exact(hidden)) {
            matrix[control.id as usize * hidden..][..hidden].copy_from_slice(row);
        }
        let packed = TwoWayMatrix::new(&matrix, vocab, hidden);
        let learnt = match self.method {
            Method::Whole => {
                LearntRows::All(self.parameter(name.to_owned(), (vocab, hidden), matrix))
            }
            Method::LowRank { .. } if self.control.is_empty() => LearntRows::None,
            Method::LowRank { .. } => {
                let place = if module == "lm_head" { "" } else { "model." };
                let ids = self.control.iter().map(|control| control.id).collect();
                let id = self.parameter(
                    format!("{PEFT}{place}{module}.token_adapter.trainable_tokens_delta"),
                    (self.control.len(), hidden),
                    rows,
                );
                LearntRows::Some(id, ids)
            }
        };
        Ok(Table { packed, learnt })
    }

    fn parameter(&mut self, name: String, shape: (usize, usize), values: Vec<f32>) -> ParameterId {
        self.parameters.push(Parameter {
            name,
            shape,
            vector: false,
            values,
        })
    }

    fn vector(&mut self, name: String, values: Vec<f32>) -> ParameterId {
        self.parameters.push(Parameter {
            name,
            shape: (1, values.len()),
            vector: true,
            values,
        })
    }
}
