//! The decoder against its formulas, written out in plain loops and f64 for every family.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::f64::consts::PI;
use std::path::Path;

use crate::common::*;
use candle_core::{DType, Device};
use onegen_engine::{KvType, ModelConfig, RopeScaling};

type Vector = Vec<f64>;

struct Reference {
    config: ModelConfig,
    /// Rows of every tensor; a vector is one row.
    tensors: HashMap<String, Vec<Vector>>,
}

impl Reference {
    fn load(dir: &Path) -> Self {
        let file = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let rows = |tensor: candle_core::Tensor| {
            let tensor = tensor.to_dtype(DType::F64).unwrap();
            let rows = if tensor.rank() == 1 {
                tensor.unsqueeze(0).unwrap()
            } else {
                tensor
            };
            rows.to_vec2::<f64>().unwrap()
        };
        Self {
            config: ModelConfig::load(dir).unwrap(),
            tensors: tensors
                .into_iter()
                .map(|(name, t)| (name, rows(t)))
                .collect(),
        }
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vector {
        let bias = self.tensors.get(&format!("{name}.bias"));
        let rows = self.tensors[&format!("{name}.weight")].iter().enumerate();
        rows.map(|(i, row)| dot(row, x) + bias.map_or(0.0, |b| b[0][i]))
            .collect()
    }

    /// x / sqrt(mean(x²) + eps) * weight
    fn norm(&self, name: &str, x: &[f64]) -> Vector {
        let mean = dot(x, x) / x.len() as f64;
        let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
        let weight = &self.tensors[&format!("{name}.weight")][0];
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    /// The angle per position of pair `i`, as transformers computes it.
    fn frequency(&self, i: usize) -> f64 {
        let theta = f64::from(self.config.rope_theta);
        let plain = theta.powf(-2.0 * i as f64 / self.config.head_dim as f64);
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } = self.config.rope_scaling
        else {
            return plain;
        };
        let (factor, low, high) = (
            f64::from(factor),
            f64::from(low_freq_factor),
            f64::from(high_freq_factor),
        );
        let turns = original_max_position_embeddings as f64 * plain / (2.0 * PI);
        if turns < low {
            return plain / factor;
        }
        if turns > high {
            return plain;
        }
        let smooth = (turns - low) / (high - low);
        (1.0 - smooth) * plain / factor + smooth * plain
    }

    /// Heads of a projection, normalised and turned where they are.
    fn heads(&self, layer: &str, which: &str, x: &[f64], position: usize) -> Vec<Vector> {
        let half = self.config.head_dim / 2;
        let projected = self.linear(&format!("{layer}.self_attn.{which}_proj"), x);
        let turned = projected.chunks(self.config.head_dim).map(|head| {
            if which == "v" {
                return head.to_vec();
            }
            let head = if self.config.qk_norm {
                self.norm(&format!("{layer}.self_attn.{which}_norm"), head)
            } else {
                head.to_vec()
            };
            let mut turned = head.clone();
            for i in 0..half {
                let (sin, cos) = (position as f64 * self.frequency(i)).sin_cos();
                turned[i] = head[i] * cos - head[i + half] * sin;
                turned[i + half] = head[i + half] * cos + head[i] * sin;
            }
            turned
        });
        turned.collect()
    }

    /// States after the final norm and logits at every position.
    fn forward(&self, ids: &[u32]) -> Vec<(Vector, Vector)> {
        let c = &self.config;
        let group = c.num_attention_heads / c.num_key_value_heads;
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let mut states: Vec<Vector> = ids
            .iter()
            .map(|&id| embedding[id as usize].clone())
            .collect();
        for at in 0..c.num_hidden_layers {
            let layer = format!("model.layers.{at}");
            let heads = |which: &str| -> Vec<Vec<Vector>> {
                let each = states.iter().enumerate();
                each.map(|(position, state)| {
                    let x = self.norm(&format!("{layer}.input_layernorm"), state);
                    self.heads(&layer, which, &x, position)
                })
                .collect()
            };
            let (queries, keys, values) = (heads("q"), heads("k"), heads("v"));
            for (position, state) in states.iter_mut().enumerate() {
                let first = c.window(at).map_or(0, |w| (position + 1).saturating_sub(w));
                let mut attended = Vec::new();
                for head in 0..c.num_attention_heads {
                    let query = &queries[position][head];
                    let weights: Vec<f64> = (first..=position)
                        .map(|p| dot(query, &keys[p][head / group]))
                        .map(|score| (score / (c.head_dim as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = weights.iter().sum();
                    attended.extend((0..c.head_dim).map(|i| {
                        let seen = weights.iter().zip(first..);
                        seen.map(|(w, p)| w / total * values[p][head / group][i])
                            .sum::<f64>()
                    }));
                }
                add(
                    state,
                    &self.linear(&format!("{layer}.self_attn.o_proj"), &attended),
                );
                let x = self.norm(&format!("{layer}.post_attention_layernorm"), state);
                let gate = self.linear(&format!("{layer}.mlp.gate_proj"), &x);
                let up = self.linear(&format!("{layer}.mlp.up_proj"), &x);
                let fed: Vector = gate
                    .iter()
                    .zip(up)
                    .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                    .collect();
                add(state, &self.linear(&format!("{layer}.mlp.down_proj"), &fed));
            }
        }
        let head = if c.tie_word_embeddings {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        let finished = states.iter().map(|state| self.norm("model.norm", state));
        finished
            .map(|x| (x.clone(), self.linear(head, &x)))
            .collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
}

#[test]
fn the_forward_is_what_the_formulas_say() {
    for family in FAMILIES {
        let dir = family.write(11);
        let model = load_kept_in(dir.path(), KvType::F32);
        // Long enough for the sliding window and for every band of the scaled frequencies.
        let ids = question(&model, &"What is the capital of Peru? ".repeat(8));
        assert!(ids.len() > 40);
        let (states, logits) = clean_forward(&model, &ids);
        let want = Reference::load(dir.path()).forward(&ids);
        for (at, (state, row)) in want.iter().enumerate() {
            let f32s = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let apart = difference(&f32s(row), &logits[at]);
            assert!(apart < 1e-4, "{family:?}: logits at {at} are {apart} apart");
            let cosine = cosine(&f32s(state), &states[at]);
            assert!(cosine > 0.999999, "{family:?}: cosine {cosine} at {at}");
        }
    }
}
