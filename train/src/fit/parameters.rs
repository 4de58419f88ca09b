//! Trained parameters: named matrices, their gradients, and AdamW.

use std::collections::HashMap;

use anyhow::{Result, ensure};

/// The index of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

/// A trained matrix.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in the file that it is written to
    pub name: String,
    /// Rows and columns; one row for a vector
    pub shape: (usize, usize),
    /// Whether it is a vector in its file
    pub vector: bool,
    /// Its numbers, row by row
    pub values: Vec<f32>,
}

/// All trained matrices.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<Parameter>);

/// The gradient of each parameter, in order.
#[derive(Clone, Debug)]
pub struct Gradients(Vec<Vec<f32>>);

impl Parameters {
    /// Adds a parameter.
    pub fn push(&mut self, parameter: Parameter) -> ParameterId {
        self.0.push(parameter);
        ParameterId(self.0.len() - 1)
    }

    /// A parameter.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.0[id.0]
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter()
    }

    /// All with their ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = (ParameterId, &Parameter)> {
        let all = self.0.iter().enumerate();
        all.map(|(at, parameter)| (ParameterId(at), parameter))
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.0.iter().map(|parameter| parameter.values.len()).sum()
    }

    /// Sets the values from tensors of the same names.
    ///
    /// # Errors
    /// One is missing or has another size.
    pub fn assign(&mut self, mut values: HashMap<String, Vec<f32>>) -> Result<()> {
        for parameter in &mut self.0 {
            let read = values.remove(&parameter.name).unwrap_or_default();
            ensure!(
                read.len() == parameter.values.len(),
                "{} has {} numbers where {} are needed",
                parameter.name,
                read.len(),
                parameter.values.len()
            );
            parameter.values = read;
        }
        Ok(())
    }

    /// A gradient of zeros for each.
    pub fn zeros(&self) -> Gradients {
        Gradients(self.0.iter().map(|p| vec![0.0; p.values.len()]).collect())
    }
}

impl Gradients {
    /// The gradient of one parameter.
    pub fn get(&self, id: ParameterId) -> &[f32] {
        &self.0[id.0]
    }

    /// The gradient of one parameter, to add to.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.0[id.0]
    }

    /// Adds another step's or thread's.
    pub fn add(&mut self, other: &Self) {
        let pairs = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        pairs.for_each(|(sum, other)| *sum += other);
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|gradient| gradient.fill(0.0));
    }

    /// The root of the sum of all squares.
    pub fn norm(&self) -> f64 {
        let square = |gradient: &Vec<f32>| gradient.iter().map(|g| f64::from(g * g)).sum::<f64>();
        self.0.iter().map(square).sum::<f64>().sqrt()
    }
}

/// AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay.
#[derive(Clone, Debug)]
pub struct AdamW {
    means: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
    steps: i32,
}

/// The settings of a step of AdamW.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The learning rate of this step
    pub rate: f64,
    /// How much of a matrix decays at a rate of 1; vectors do not decay
    pub decay: f64,
    /// The decay rates of the running means of gradients and of their squares
    pub beta: (f64, f64),
    /// Gradients are scaled down to this norm
    pub clip: f64,
}

const EPSILON: f32 = 1e-8;

impl AdamW {
    /// An optimiser in its initial state.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            means: parameters.zeros().0,
            squares: parameters.zeros().0,
            steps: 0,
        }
    }

    /// Updates every parameter. Returns the gradients' norm before clipping.
    pub fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, rule: &Rule) -> f64 {
        let norm = gradients.norm();
        let scale = (rule.clip / norm).min(1.0) as f32;
        self.steps += 1;
        let beta = (rule.beta.0 as f32, rule.beta.1 as f32);
        let unbias = (
            1.0 - rule.beta.0.powi(self.steps),
            1.0 - rule.beta.1.powi(self.steps),
        );
        let (rate, unbias_square) = ((rule.rate / unbias.0) as f32, unbias.1 as f32);
        for (((parameter, gradient), means), squares) in (parameters.0.iter_mut())
            .zip(&gradients.0)
            .zip(&mut self.means)
            .zip(&mut self.squares)
        {
            let decay = if parameter.vector {
                0.0
            } else {
                (rule.rate * rule.decay) as f32
            };
            for (((value, g), mean), square) in (parameter.values.iter_mut())
                .zip(gradient)
                .zip(means)
                .zip(squares)
            {
                let g = g * scale;
                *mean = beta.0 * *mean + (1.0 - beta.0) * g;
                *square = beta.1 * *square + (1.0 - beta.1) * g * g;
                *value -=
                    decay * *value + rate * *mean / ((*square / unbias_square).sqrt() + EPSILON);
            }
        }
        norm
    }

    /// The optimiser's state by name, for a checkpoint.
    pub fn state(&self, parameters: &Parameters) -> Vec<(String, &[f32])> {
        let named = parameters.iter().zip(self.means.iter().zip(&self.squares));
        named
            .flat_map(|(parameter, (mean, square))| {
                [("mean", mean), ("square", square)]
                    .map(|(kind, values)| (format!("{kind}.{}", parameter.name), values.as_slice()))
            })
            .collect()
    }

    /// Restores the state of a checkpoint that was written after `steps` steps.
    ///
    /// # Errors
    /// A tensor is missing or has another size.
    pub fn restore(
        parameters: &Parameters,
        steps: usize,
        mut values: HashMap<String, Vec<f32>>,
    ) -> Result<Self> {
        let mut take = |kind: &str| -> Result<Vec<Vec<f32>>> {
            let of = |parameter: &Parameter| {
                let name = format!("{kind}.{}", parameter.name);
                let read = values.remove(&name).unwrap_or_default();
                ensure!(
                    read.len() == parameter.values.len(),
                    "{name} has {} numbers where {} are needed",
                    read.len(),
                    parameter.values.len()
                );
                Ok(read)
            };
            parameters.iter().map(of).collect()
        };
        Ok(Self {
            means: take("mean")?,
            squares: take("square")?,
            steps: steps as i32,
        })
    }
}
