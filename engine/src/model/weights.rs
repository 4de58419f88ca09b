//! Weight files: which ones, whether they hold every tensor, and their fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::config::{ModelConfig, PROJECTIONS};
use crate::error::LoadError;
use crate::files::read_json_if_there;

/// The names of embedding and head in every family.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// The index of a model in several files.
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of a model directory.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    /// Sorted.
    pub(crate) paths: Vec<PathBuf>,
    /// Which file each tensor is read from, if an index says so.
    pub(super) assigned: Option<BTreeMap<String, PathBuf>>,
}

impl WeightFiles {
    /// Those that `model.safetensors.index.json` names, else `model.safetensors`, else every `*.safetensors`.
    ///
    /// # Errors
    /// There is none, the directory cannot be read, or `model.safetensors` stands beside an index that does not
    /// name it.
    pub(crate) fn find(dir: &Path) -> Result<Self, LoadError> {
        let single = dir.join("model.safetensors");
        let index: Option<ShardIndex> = read_json_if_there(&dir.join(INDEX))?;
        if let Some(index) = index {
            let files = Self::from_index(dir, index)?;
            if single.is_file() && !files.paths.contains(&single) {
                return Err(LoadError::Inconsistent {
                    path: dir.join(INDEX),
                    reason: "it does not name model.safetensors, which is beside it; remove one of the two".into(),
                });
            }
            return Ok(files);
        }
        let paths = if single.is_file() {
            vec![single]
        } else {
            every_file(dir)?
        };
        Ok(Self {
            paths,
            assigned: None,
        })
    }

    fn from_index(dir: &Path, index: ShardIndex) -> Result<Self, LoadError> {
        let within = |name: &String| {
            let mut parts = Path::new(name).components();
            parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(outside) = index.weight_map.values().find(|name| !within(name)) {
            return Err(LoadError::Inconsistent {
                path: dir.join(INDEX),
                reason: format!("it names {outside:?}, which is no file of this directory"),
            });
        }
        let files = index.weight_map.into_iter();
        let assigned: BTreeMap<_, _> = files.map(|(name, file)| (name, dir.join(file))).collect();
        let paths: BTreeSet<_> = assigned.values().cloned().collect();
        Ok(Self {
            paths: paths.into_iter().collect(),
            assigned: Some(assigned),
        })
    }
}

/// Every `*.safetensors` of a directory, sorted.
fn every_file(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(LoadError::NoWeights {
            dir: dir.to_owned(),
        });
    }
    files.sort();
    Ok(files)
}

/// blake3 of files, in order.
pub(crate) fn fingerprint<'a>(
    files: impl IntoIterator<Item = &'a Path>,
) -> Result<String, LoadError> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        fs::File::open(path)
            .and_then(|file| hasher.update_reader(file).map(|_| ()))
            .map_err(|source| LoadError::Read {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// What of the weights a configuration contradicts: layers behind its last, and parts of its layers that it has
/// no use for. Leaving them out would give another model.
pub(crate) fn contradiction<'a>(
    config: &ModelConfig,
    stored: impl Iterator<Item = &'a String>,
) -> Option<String> {
    let called_for: BTreeSet<_> = names(config).into_iter().collect();
    let is_contradicted = |name: &str| {
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        if layer >= config.num_hidden_layers {
            let layers = config.num_hidden_layers;
            return Some(format!(
                "it has {layers} layers, but the weights hold {name}"
            ));
        }
        let module = part
            .strip_suffix(".bias")
            .or(part.strip_suffix(".weight"))?;
        let known = PROJECTIONS.contains(&module)
            || ["self_attn.q_norm", "self_attn.k_norm"].contains(&module);
        let unused = known && !called_for.contains(name);
        unused.then(|| format!("the weights hold {name}, for which it has no use"))
    };
    // The first by name, so that the message does not depend on a map's order.
    let mut found: Vec<_> = stored.filter_map(|name| is_contradicted(name)).collect();
    found.sort();
    found.into_iter().next()
}

/// Every tensor that the configuration calls for.
pub(crate) fn names(config: &ModelConfig) -> Vec<String> {
    let mut in_layer: Vec<String> = ["input_layernorm", "post_attention_layernorm"]
        .map(|norm| format!("{norm}.weight"))
        .into();
    let qkv = config.qkv_bias;
    let biases = [qkv, qkv, qkv, config.output_bias, false, false, false];
    for (projection, bias) in PROJECTIONS.into_iter().zip(biases) {
        in_layer.push(format!("{projection}.weight"));
        in_layer.extend(bias.then(|| format!("{projection}.bias")));
    }
    if config.qk_norm {
        in_layer.extend(["q_norm", "k_norm"].map(|norm| format!("self_attn.{norm}.weight")));
    }
    let mut names = vec![EMBEDDING.to_owned()];
    for layer in 0..config.num_hidden_layers {
        names.extend(in_layer.iter().map(|n| format!("model.layers.{layer}.{n}")));
    }
    names.push("model.norm.weight".to_owned());
    names.extend((!config.tie_word_embeddings).then(|| HEAD.to_owned()));
    names
}
