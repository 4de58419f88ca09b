//! Weight files: which ones, whether they hold every tensor, and their fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::{ModelConfig, PROJECTIONS};
use crate::error::LoadError;
use crate::files::read_json_if_there;

/// The names of embedding and head in every family.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of a model directory, sorted: those that `model.safetensors.index.json` names,
/// else `model.safetensors`, else every `*.safetensors`.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let index: Option<ShardIndex> = read_json_if_there(&dir.join("model.safetensors.index.json"))?;
    if let Some(index) = index {
        let names: BTreeSet<_> = index.weight_map.into_values().collect();
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
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
