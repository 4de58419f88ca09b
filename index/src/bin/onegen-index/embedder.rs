//! The engine as the index needs it: passages and questions in, vectors out.

use std::path::PathBuf;

use anyhow::{Context, Result};
use onegen_engine::{DeviceName, ForwardError, LoadOptions, Model, WeightType};
use onegen_index::{Embedder, Fingerprints, Index};

/// Which model embeds.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// Directory of the model, or a GGUF file
    #[arg(
        long,
        env = "ONEGEN_MODEL",
        value_name = "PATH",
        default_value = "models/almanac"
    )]
    model: PathBuf,

    /// How the model's matrices are kept: f32, f16, bf16, q8_0, q4_1, q4_k or q4_0 [default: as they are stored]
    #[arg(long, env = "ONEGEN_WEIGHTS", value_name = "TYPE")]
    weights: Option<WeightType>,

    /// Where the model runs: cpu, cuda or metal; of several GPUs the one of a number, as in cuda:1
    #[arg(
        long,
        env = "ONEGEN_DEVICE",
        value_name = "DEVICE",
        default_value = "cpu"
    )]
    device: DeviceName,
}

pub(crate) struct ModelEmbedder {
    model: Model,
    fingerprints: Fingerprints,
}

impl ModelEmbedder {
    pub(crate) fn load(arguments: &ModelArguments) -> Result<Self> {
        let dir = &arguments.model;
        let options = LoadOptions {
            device: arguments.device.open()?,
            weights: arguments.weights,
            ..LoadOptions::default()
        };
        let model = Model::load(dir, &options)
            .with_context(|| format!("cannot load the model {} (--model)", dir.display()))?;
        let of_model = model.fingerprints();
        let fingerprints = Fingerprints {
            name: model.name().to_owned(),
            model: of_model.model.clone(),
            tokenizer: of_model.tokenizer.clone(),
            template: of_model.template.clone(),
        };
        Ok(Self {
            model,
            fingerprints,
        })
    }

    /// Width of an embedding.
    pub(crate) fn dimension(&self) -> usize {
        self.model.hidden_size()
    }

    pub(crate) fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    pub(crate) fn query(&self, text: &str) -> Result<Vec<f32>> {
        self.model
            .embed_query(text)
            .context("cannot embed the query")
    }

    /// Fails unless this model made the index's vectors.
    pub(crate) fn check(&self, index: &Index) -> Result<()> {
        index
            .check_fingerprints(&self.fingerprints)
            .context("name the index's own model with --model")
    }
}

impl Embedder for ModelEmbedder {
    type Error = ForwardError;

    fn count_tokens(&self, text: &str) -> usize {
        self.model.tokens().count(text)
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, ForwardError> {
        let embedded = self.model.embed_texts(texts)?.into_iter();
        Ok(embedded
            .map(|vector| vector.map_err(|e| e.to_string()))
            .collect())
    }
}
