//! LoRA adapters as Hugging Face's peft saves them, merged into their base as its rows are read.
//!
//! An adapter is a directory with `adapter_config.json` and `adapter_model.safetensors`. It changes the
//! linear layers of a base by products of two narrow matrices, and replaces single rows of the embedding.

mod change;
mod config;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::stored::{StoredTensor, damaged, read_header};
use super::weights::{self, HEAD};
use crate::config::{ModelConfig, PROJECTIONS};
use crate::error::LoadError;
use crate::files::read_json_if_there;
use crate::tokens::onegen_config::BaseModel;

pub(super) use change::{Change, OpenChange};
use config::AdapterConfig;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// peft puts this before transformers' names of the modules.
const PREFIX: &str = "base_model.model.";

/// Whether `path` is the directory of an adapter, which needs [`LoadOptions::base`](super::LoadOptions).
pub fn is_adapter(path: &Path) -> bool {
    path.join(CONFIG).is_file()
}

/// An opened adapter, whose numbers were not read yet.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) dir: PathBuf,
    config: AdapterConfig,
    tensors: HashMap<String, StoredTensor>,
    /// The base that it asks for.
    wanted: BaseModel,
}

/// The part of `onegen.json` that is read before there is a tokenizer.
#[derive(Default, Deserialize)]
struct RequestedBase {
    base: Option<BaseModel>,
}

impl Adapter {
    /// Reads the adapter's configuration and the header of its weights.
    ///
    /// # Errors
    /// A file is missing or damaged, or the configuration asks for what is not supported.
    pub(super) fn open(dir: &Path) -> Result<Self, LoadError> {
        let config = AdapterConfig::load(&dir.join(CONFIG))?;
        let path = dir.join(WEIGHTS);
        let mut tensors = HashMap::new();
        for (name, stored) in read_header(&path)? {
            let Some(stored) = stored else {
                let reason = format!("the numbers of {name} are neither F32 nor F16 nor BF16");
                return Err(damaged(&path, reason));
            };
            tensors.insert(name, stored);
        }
        let wanted: Option<RequestedBase> = read_json_if_there(&dir.join("onegen.json"))?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            tensors,
            wanted: wanted.and_then(|wanted| wanted.base).unwrap_or_default(),
        })
    }

    /// What it calls its base, if anything.
    pub(super) fn base_name(&self) -> Option<String> {
        let name = self.wanted.name.as_ref();
        name.or(self.config.base_name.as_ref()).cloned()
    }

    /// The error of an adapter that was loaded without a base.
    pub(super) fn no_base(&self) -> LoadError {
        LoadError::NoBase {
            dir: self.dir.clone(),
            base: self.base_name(),
        }
    }

    /// blake3 of the base's fingerprint and of all files by which the adapter changes the model.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn fingerprint(&self, base: &str) -> Result<String, LoadError> {
        let files = [CONFIG, WEIGHTS, "config.json"].map(|name| self.dir.join(name));
        let files = files.iter().filter(|path| path.is_file());
        let own = weights::fingerprint(files.map(PathBuf::as_path))?;
        let both = blake3::hash(format!("{base} {own}").as_bytes());
        Ok(both.to_hex().to_string())
    }

    /// Checks that the base has the fingerprint that `onegen.json` names, if it names one.
    ///
    /// # Errors
    /// The base has another fingerprint.
    pub(super) fn check_fingerprint(&self, base: &Path, found: &str) -> Result<(), LoadError> {
        match &self.wanted.blake3 {
            Some(wanted) if !wanted.eq_ignore_ascii_case(found) => {
                let named = self.wanted.name.as_deref();
                let named = named.map_or(String::new(), |name| format!(" {name}"));
                Err(self.other_base(
                    base,
                    format!(
                        "its onegen.json asks for the base{named} with blake3 {wanted}, \
                         but this one has {found}"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the base's configuration agrees with the one in the adapter's directory, if there is
    /// one, and with the class that peft recorded.
    ///
    /// # Errors
    /// They contradict each other.
    pub(super) fn check_config(
        &self,
        base: &Path,
        found: &ModelConfig,
        own: &ModelConfig,
    ) -> Result<(), LoadError> {
        let class = format!("{:?}ForCausalLM", found.architecture);
        // Mistral is Llama with a window, and a GGUF file does not tell the two apart without one.
        let kin = |class: &str| class.replace("Mistral", "Llama");
        if let Some(wanted) = &self.config.base_class
            && kin(wanted) != kin(&class)
        {
            return Err(self.other_base(base, format!("{CONFIG} names {wanted}, this is {class}")));
        }
        let sizes = |config: &ModelConfig| {
            [
                ("hidden_size", config.hidden_size),
                ("intermediate_size", config.intermediate_size),
                ("num_hidden_layers", config.num_hidden_layers),
                ("num_attention_heads", config.num_attention_heads),
                ("num_key_value_heads", config.num_key_value_heads),
                ("head_dim", config.head_dim),
                ("tie_word_embeddings", config.tie_word_embeddings.into()),
                ("qk_norm", config.qk_norm.into()),
                ("qkv_bias", config.qkv_bias.into()),
            ]
        };
        let mut pairs = sizes(own).into_iter().zip(sizes(found));
        match pairs.find(|(own, found)| own != found) {
            Some(((key, own), (_, found))) => Err(self.other_base(
                base,
                format!("its config.json has {key} {own}, the base has {found}"),
            )),
            None => Ok(()),
        }
    }

    /// The changes of the base's tensors, by name.
    ///
    /// # Errors
    /// A tensor is missing, belongs to nothing, or has another shape than the base's modules.
    pub(super) fn changes(
        &self,
        base: &Path,
        model: &ModelConfig,
    ) -> Result<HashMap<String, Change>, LoadError> {
        let mut unused: BTreeSet<&str> = self.tensors.keys().map(String::as_str).collect();
        let mut changes = HashMap::new();
        let rank = self.config.rank;
        for (module, (outputs, inputs)) in self.config.modules(model, &self.dir.join(CONFIG))? {
            let [down, up] =
                ["lora_A", "lora_B"].map(|part| format!("{PREFIX}{module}.{part}.weight"));
            let there = [&down, &up].map(|name| unused.remove(name.as_str()));
            if there == [false, false] && !self.config.lists_modules() {
                continue;
            }
            let change = Change::LowRank {
                down: self.shaped(base, &down, [rank, inputs])?,
                up: self.shaped(base, &up, [outputs, rank])?,
                rank,
                scale: self.config.scale(),
            };
            changes.insert(format!("{module}.weight"), change);
        }
        for (name, ids) in self.config.token_rows(model, &self.dir.join(CONFIG))? {
            let module = name.trim_end_matches(".weight");
            let tensor = format!("{PREFIX}{module}.token_adapter.trainable_tokens_delta");
            unused.remove(tensor.as_str());
            let change = self.rows(base, &tensor, ids, model)?;
            // A tied embedding may be stored as the head alone.
            if model.tie_word_embeddings {
                changes.insert(HEAD.to_owned(), change.clone());
            }
            changes.insert(name.to_owned(), change);
        }
        match unused.first() {
            Some(name) => Err(self.odd_tensor(base, name, model)),
            None => Ok(changes),
        }
    }

    fn rows(
        &self,
        base: &Path,
        tensor: &str,
        ids: &[usize],
        model: &ModelConfig,
    ) -> Result<Change, LoadError> {
        let rows = self.shaped(base, tensor, [ids.len(), model.hidden_size])?;
        if let Some(id) = ids.iter().find(|&&id| id >= model.vocab_size) {
            return Err(self.other_base(
                base,
                format!(
                    "it replaces the row of the id {id}, but the vocabulary has the size {}; \
                     a larger one is said by a config.json and a tokenizer.json of the adapter's own",
                    model.vocab_size
                ),
            ));
        }
        Ok(Change::Rows {
            ids: ids.to_vec(),
            rows,
        })
    }

    /// A tensor that must have this shape.
    fn shaped(
        &self,
        base: &Path,
        name: &str,
        wanted: [usize; 2],
    ) -> Result<StoredTensor, LoadError> {
        let missing = || {
            damaged(
                &self.dir.join(WEIGHTS),
                format!("it lacks the tensor {name}"),
            )
        };
        let stored = self.tensors.get(name).ok_or_else(missing)?;
        if stored.shape != wanted {
            return Err(self.other_base(
                base,
                format!(
                    "{name} has the shape {:?}, where the base and {CONFIG} ask for {wanted:?}",
                    stored.shape
                ),
            ));
        }
        Ok(stored.clone())
    }

    /// The error for a tensor that changes nothing.
    fn odd_tensor(&self, base: &Path, name: &str, model: &ModelConfig) -> LoadError {
        let layer = name.strip_prefix(PREFIX).and_then(|name| {
            let (layer, _) = name.strip_prefix("model.layers.")?.split_once('.')?;
            layer.parse::<usize>().ok()
        });
        match layer {
            Some(layer) if layer >= model.num_hidden_layers => self.other_base(
                base,
                format!(
                    "it holds {name}, but the base has {} layers",
                    model.num_hidden_layers
                ),
            ),
            _ => LoadError::Unsupported {
                path: self.dir.join(WEIGHTS),
                what: format!("the tensor {name}"),
                remedy: format!(
                    "{CONFIG} must name its module, which may be one of {} or rows of the embedding",
                    PROJECTIONS.join(", ")
                ),
            },
        }
    }

    fn other_base(&self, base: &Path, reason: impl Display) -> LoadError {
        LoadError::OtherBase {
            adapter: self.dir.clone(),
            base: base.to_owned(),
            reason: reason.to_string(),
        }
    }
}
