//! Muon for the layers' matrices, Adam for everything else.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use crate::model::{Model, Weight};
use crate::ops::with_elements;

/// The highest learning rates of the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// For matrices (Jordan et al. 2024)
    pub muon: f64,
    /// For embeddings and norms (Kingma & Ba 2015)
    pub adam: f64,
}

const MOMENTUM: f32 = 0.95;
const BETA: (f32, f32) = (0.9, 0.99);
const EPSILON: f32 = 1e-8;

/// The optimiser's state of one weight.
enum Memory {
    Muon { momentum: Tensor },
    Adam { mean: Vec<f32>, square: Vec<f32> },
}

/// The optimiser, with one state for each weight of the model, in the model's order.
pub struct Optimiser {
    memories: Vec<Memory>,
    steps: i32,
}

/// Each weight's gradient, in the model's order.
pub type Gradients = Vec<Option<Tensor>>;

fn is_matrix(weight: &Weight) -> bool {
    weight.var.rank() == 2 && weight.name.contains(".layers.")
}

impl Optimiser {
    /// An optimiser in its initial state.
    pub fn new(model: &Model) -> Result<Self> {
        let memories = model.weights.iter().map(|weight| {
            let count = weight.var.elem_count();
            Ok(if is_matrix(weight) {
                Memory::Muon {
                    momentum: weight.var.zeros_like()?,
                }
            } else {
                Memory::Adam {
                    mean: vec![0.0; count],
                    square: vec![0.0; count],
                }
            })
        });
        Ok(Self {
            memories: memories.collect::<Result<_>>()?,
            steps: 0,
        })
    }

    /// Updates every weight. The gradients are scaled down to a total norm of at most one, and the
    /// matrices are distributed to `threads` threads. Returns the norm before scaling.
    pub fn step(
        &mut self,
        model: &Model,
        gradients: &Gradients,
        rates: Rates,
        threads: usize,
    ) -> Result<f64> {
        let mut square = 0.0;
        for gradient in gradients.iter().flatten() {
            square += with_elements(gradient, |g| {
                g.iter().map(|g| f64::from(g * g)).sum::<f64>()
            })?;
        }
        let norm = square.sqrt();
        let scale = (1.0 / norm.max(1.0)) as f32;
        self.steps += 1;
        let steps = self.steps;
        let mut work: Vec<_> = model
            .weights
            .iter()
            .zip(&mut self.memories)
            .zip(gradients)
            .filter_map(|((weight, memory), gradient)| Some((weight, memory, gradient.as_ref()?)))
            .collect();
        // Every thread gets a share of large and small matrices.
        let mut shares: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, item) in work.drain(..).enumerate() {
            shares[index % threads].push(item);
        }
        std::thread::scope(|scope| {
            let handles: Vec<_> = shares
                .into_iter()
                .map(|share| {
                    scope.spawn(move || -> Result<()> {
                        share
                            .into_iter()
                            .try_for_each(|(weight, memory, gradient)| {
                                update(weight, memory, gradient, scale, steps, rates)
                            })
                    })
                })
                .collect();
            handles.into_iter().try_for_each(|handle| {
                handle
                    .join()
                    .map_err(|_| anyhow::anyhow!("an optimiser thread panicked"))?
            })
        })?;
        Ok(norm)
    }

    /// Writes the state beside a checkpoint.
    pub fn save(&self, model: &Model, path: &Path) -> Result<()> {
        let mut tensors = HashMap::new();
        for (weight, memory) in model.weights.iter().zip(&self.memories) {
            match memory {
                Memory::Muon { momentum } => {
                    drop(tensors.insert(format!("momentum.{}", weight.name), momentum.clone()))
                }
                Memory::Adam { mean, square } => {
                    for (name, values) in [("mean", mean), ("square", square)] {
                        tensors.insert(
                            format!("{name}.{}", weight.name),
                            Tensor::from_slice(values, values.len(), &Device::Cpu)?,
                        );
                    }
                }
            }
        }
        tensors.insert(
            "steps".to_owned(),
            Tensor::new(&[self.steps as u32], &Device::Cpu)?,
        );
        candle_core::safetensors::save(&tensors, path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the state of a checkpoint.
    pub fn load(model: &Model, path: &Path) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let get = |name: String| {
            tensors
                .get(&name)
                .with_context(|| format!("{} holds no {name}", path.display()))
        };
        let memories = model.weights.iter().map(|weight| {
            let values = |part: &str| -> Result<Vec<f32>> {
                Ok(get(format!("{part}.{}", weight.name))?
                    .flatten_all()?
                    .to_vec1()?)
            };
            Ok(if is_matrix(weight) {
                Memory::Muon {
                    momentum: get(format!("momentum.{}", weight.name))?.clone(),
                }
            } else {
                Memory::Adam {
                    mean: values("mean")?,
                    square: values("square")?,
                }
            })
        });
        let memories = memories.collect::<Result<_>>()?;
        let steps = get("steps".to_owned())?
            .to_vec1::<u32>()?
            .first()
            .copied()
            .unwrap_or(0) as i32;
        Ok(Self { memories, steps })
    }
}

fn update(
    weight: &Weight,
    memory: &mut Memory,
    gradient: &Tensor,
    scale: f32,
    steps: i32,
    rates: Rates,
) -> Result<()> {
    match memory {
        Memory::Muon { momentum } => {
            let gradient = (gradient * f64::from(scale))?;
            *momentum =
                ((&*momentum * f64::from(MOMENTUM))? + (&gradient * f64::from(1.0 - MOMENTUM))?)?;
            // Nesterov momentum: the momentum after this gradient.
            let ahead =
                ((&*momentum * f64::from(MOMENTUM))? + (gradient * f64::from(1.0 - MOMENTUM))?)?;
            let (rows, columns) = weight.var.dims2()?;
            let stretch = (rows as f64 / columns as f64).max(1.0).sqrt();
            weight.var.set(
                &(weight.var.as_tensor() - (orthogonal(&ahead)? * (rates.muon * stretch))?)?,
            )?;
        }
        Memory::Adam { mean, square } => {
            let correct = (1.0 - BETA.0.powi(steps), 1.0 - BETA.1.powi(steps));
            let rate = rates.adam as f32;
            let mut values = weight.var.as_tensor().flatten_all()?.to_vec1::<f32>()?;
            with_elements(gradient, |gradient| {
                for (((value, g), m), s) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
                    let g = g * scale;
                    *m = BETA.0 * *m + (1.0 - BETA.0) * g;
                    *s = BETA.1 * *s + (1.0 - BETA.1) * g * g;
                    *value -= rate * (*m / correct.0) / ((*s / correct.1).sqrt() + EPSILON);
                }
            })?;
            weight
                .var
                .set(&Tensor::from_vec(values, weight.var.shape(), &Device::Cpu)?)?;
        }
    }
    Ok(())
}

/// The nearest matrix with all singular values near one: five Newton–Schulz steps (Jordan et al. 2024).
fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let tall = matrix.dim(0)? > matrix.dim(1)?;
    let matrix = if tall {
        matrix.t()?.contiguous()?
    } else {
        matrix.clone()
    };
    let norm = f64::from(matrix.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt());
    let mut x = (matrix / (norm + 1e-7))?;
    for _ in 0..5 {
        let square = x.matmul(&x.t()?)?;
        let poly = ((&square * b)? + (square.matmul(&square)? * c)?)?;
        x = ((&x * a)? + poly.matmul(&x)?)?;
    }
    Ok(if tall { x.t()?.contiguous()? } else { x })
}
