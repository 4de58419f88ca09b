//! `adapter_config.json`: which modules an adapter changes, and by how much.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{ModelConfig, OneOrMany, PROJECTIONS};
use crate::error::LoadError;
use crate::files::read_json;
use crate::model::weights::{EMBEDDING, HEAD};

/// Settings that have no effect on a trained adapter.
const OF_NO_CONCERN: [&str; 13] = [
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// The part of `adapter_config.json` that is used.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    /// The name that the adapter gives its base.
    pub(super) base_name: Option<String>,
    /// The base's class in transformers, if peft recorded it.
    pub(super) base_class: Option<String>,
    pub(super) rank: usize,
    alpha: f32,
    /// The modules that are changed; `None` if only a pattern names them.
    targets: Option<Vec<String>>,
    layers: Option<Vec<usize>>,
    /// The ids whose rows are replaced, by the name of the tensor.
    token_rows: BTreeMap<&'static str, Vec<usize>>,
}

#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    auto_mapping: Option<AutoMapping>,
    r: usize,
    lora_alpha: f32,
    target_modules: Option<Targets>,
    #[serde(default)]
    exclude_modules: Option<Value>,
    #[serde(default)]
    layers_to_transform: Option<OneOrMany>,
    #[serde(default)]
    trainable_token_indices: Option<TokenIndices>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct AutoMapping {
    base_model_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    /// A regular expression, or `all-linear`. It is not evaluated, because the tensors in the file
    /// show which modules are changed.
    Pattern(#[expect(dead_code, reason = "only its type is told from a list's")] String),
    Names(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIndices {
    OfTheEmbedding(Vec<usize>),
    ByModule(BTreeMap<String, Vec<usize>>),
}

impl AdapterConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// The file is missing or damaged, is for another kind of adapter, or has an unsupported setting. Every
    /// unknown setting with a value counts as unsupported.
    pub(super) fn load(path: &Path) -> Result<Self, LoadError> {
        let raw: Raw = read_json(path)?;
        let unsupported = |what: String, remedy: &str| LoadError::Unsupported {
            path: path.to_owned(),
            what,
            remedy: remedy.to_owned(),
        };
        if raw.peft_type != "LORA" {
            return Err(unsupported(
                format!("the peft_type {:?}", raw.peft_type),
                "use a LoRA adapter",
            ));
        }
        if let Some((key, value)) = raw.rest.iter().find(|(key, value)| !is_plain(key, value)) {
            return Err(unsupported(
                format!("{key}: {value}"),
                "use a plain LoRA adapter, or merge it into its base with peft",
            ));
        }
        if raw.r == 0 {
            return Err(LoadError::Inconsistent {
                path: path.to_owned(),
                reason: "r is 0, but a rank is at least 1".into(),
            });
        }
        let pattern_only = raw.exclude_modules.as_ref().is_some_and(says_something);
        let targets = match raw.target_modules {
            Some(Targets::Names(names)) if !pattern_only => Some(names),
            _ => None,
        };
        let layers = raw.layers_to_transform.map(|layers| {
            let layers = layers.into_vec().into_iter();
            layers.map(|layer| layer as usize).collect()
        });
        Ok(Self {
            base_name: raw.base_model_name_or_path.filter(|name| !name.is_empty()),
            base_class: raw.auto_mapping.and_then(|found| found.base_model_class),
            rank: raw.r,
            alpha: raw.lora_alpha,
            targets,
            layers,
            token_rows: token_rows(raw.trainable_token_indices, path)?,
        })
    }

    /// The factor by which the product of the two matrices is multiplied.
    pub(super) fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    /// Whether [`AdapterConfig::modules`] are all changed, and not only some of them.
    pub(super) fn lists_modules(&self) -> bool {
        self.targets.is_some()
    }

    /// The modules of the model that are changed, or may be, with their outputs and inputs.
    ///
    /// # Errors
    /// A target is none of the model's projections.
    pub(super) fn modules(
        &self,
        model: &ModelConfig,
        path: &Path,
    ) -> Result<Vec<Module>, LoadError> {
        let all = projections(model);
        let all = all.into_iter().filter(|(layer, ..)| match &self.layers {
            Some(layers) => layers.contains(layer),
            None => true,
        });
        let all: Vec<_> = all.map(|(_, name, shape)| (name, shape)).collect();
        let Some(targets) = &self.targets else {
            return Ok(all);
        };
        // As in peft, a target is the whole name or its end.
        let is = |name: &str, target: &str| {
            let before = name.strip_suffix(target);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let found = |target: &&String| all.iter().any(|(name, _)| is(name, target));
        if let Some(unknown) = targets.iter().find(|target| !found(target)) {
            return Err(LoadError::Unsupported {
                path: path.to_owned(),
                what: format!("the target module {unknown:?}"),
                remedy: format!("those that the model has are {}", PROJECTIONS.join(", ")),
            });
        }
        let targeted = |name: &str| targets.iter().any(|target| is(name, target));
        Ok(all.into_iter().filter(|(name, _)| targeted(name)).collect())
    }

    /// The tensors in which rows are replaced, and the ids of those rows, in the order of the new
    /// rows.
    ///
    /// # Errors
    /// The head is tied to the embedding and still has rows of its own.
    pub(super) fn token_rows(
        &self,
        model: &ModelConfig,
        path: &Path,
    ) -> Result<Vec<(&'static str, &[usize])>, LoadError> {
        let mut rows: Vec<_> = self.token_rows.iter().collect();
        if model.tie_word_embeddings && self.token_rows.contains_key(HEAD) {
            // If both have the same ids, peft ties these rows too, and saves only the embedding's.
            if self.token_rows.get(HEAD) != self.token_rows.get(EMBEDDING) {
                return Err(LoadError::Unsupported {
                    path: path.to_owned(),
                    what: "trainable_token_indices of an lm_head that is the embedding, too".into(),
                    remedy: "name those of embed_tokens".into(),
                });
            }
            rows.retain(|(name, _)| **name != HEAD);
        }
        let rows = rows.into_iter();
        Ok(rows.map(|(name, ids)| (*name, ids.as_slice())).collect())
    }
}

/// A projection's name, and its outputs and inputs.
pub(super) type Module = (String, (usize, usize));

/// Layer, name, and outputs and inputs of every projection.
fn projections(model: &ModelConfig) -> Vec<(usize, String, (usize, usize))> {
    let in_layer = |layer: usize| {
        let named = model.projections().into_iter();
        named.map(move |(name, shape)| (layer, format!("model.layers.{layer}.{name}"), shape))
    };
    (0..model.num_hidden_layers).flat_map(in_layer).collect()
}

/// Whether an adapter with this setting is still a plain LoRA adapter.
fn is_plain(key: &str, value: &Value) -> bool {
    match key {
        "bias" => value == "none",
        // The others change the base, too.
        "init_lora_weights" => match value {
            Value::String(how) => ["gaussian", "eva", "orthogonal"].contains(&how.as_str()),
            _ => true,
        },
        other => OF_NO_CONCERN.contains(&other) || !says_something(value),
    }
}

/// Whether a value sets something, that is, is not null, false or an empty list or object.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

fn token_rows(
    indices: Option<TokenIndices>,
    path: &Path,
) -> Result<BTreeMap<&'static str, Vec<usize>>, LoadError> {
    let by_module = match indices {
        None => return Ok(BTreeMap::new()),
        Some(TokenIndices::OfTheEmbedding(ids)) => [("embed_tokens".to_owned(), ids)].into(),
        Some(TokenIndices::ByModule(by_module)) => by_module,
    };
    let mut rows = BTreeMap::new();
    for (module, ids) in by_module {
        let name = match module.as_str() {
            "embed_tokens" | "model.embed_tokens" => EMBEDDING,
            "lm_head" => HEAD,
            other => {
                return Err(LoadError::Unsupported {
                    path: path.to_owned(),
                    what: format!("trainable_token_indices of {other:?}"),
                    remedy: "the modules are embed_tokens and lm_head".into(),
                });
            }
        };
        let mut seen = BTreeSet::new();
        if let Some(twice) = ids.iter().find(|id| !seen.insert(**id)) {
            return Err(LoadError::Inconsistent {
                path: path.to_owned(),
                reason: format!("trainable_token_indices name the id {twice} of {module} twice"),
            });
        }
        rows.insert(name, ids);
    }
    Ok(rows)
}
