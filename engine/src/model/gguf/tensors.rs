//! The tensors of a GGUF file under the names that transformers gives them.

use std::collections::{BTreeSet, HashMap};

use super::header::{Header, TensorInfo};
use crate::config::{Architecture, ModelConfig};
use crate::error::LoadError;
use crate::model::checkpoint::Checkpoint;
use crate::model::stored::{StoredTensor, damaged};
use crate::model::weights;

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const HEAD: &str = "output.weight";
/// The divisors of the rotary frequencies, which llama.cpp's converter writes for Llama 3.1.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// transformers' and llama.cpp's names of the tensors in each layer.
const IN_LAYERS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// transformers' and llama.cpp's names of the tensors outside the layers.
const ALONE: [(&str, &str); 3] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// llama.cpp's name of the tensor that transformers calls `name`.
fn their_name(name: &str) -> Option<String> {
    let find = |table: &[(&str, &'static str)], part: &str| {
        let (_, theirs) = table.iter().find(|(ours, _)| *ours == part)?;
        Some(*theirs)
    };
    let (part, kind) = name.rsplit_once('.')?;
    let theirs = match part.strip_prefix("model.layers.") {
        Some(rest) => {
            let (layer, part) = rest.split_once('.')?;
            format!("blk.{layer}.{}", find(&IN_LAYERS, part)?)
        }
        None => find(&ALONE, part)?.to_owned(),
    };
    Some(format!("{theirs}.{kind}"))
}

/// Finds every tensor that the configuration calls for.
///
/// # Errors
/// A tensor is missing or has an unknown type, or there is one that the architecture does not use.
/// Ignoring such a tensor would give another model.
pub(super) fn checkpoint(header: &Header, config: &ModelConfig) -> Result<Checkpoint, LoadError> {
    let mut unused: BTreeSet<_> = header.tensors.keys().map(String::as_str).collect();
    unused.remove(ROPE_FACTORS);
    let mut tensors = HashMap::new();
    for name in weights::names(config) {
        let theirs = their_name(&name).unwrap_or_else(|| name.clone());
        let info = header
            .tensors
            .get(&theirs)
            .ok_or_else(|| LoadError::MissingTensor {
                dir: header.path.to_path_buf(),
                name: theirs.clone(),
            })?;
        unused.remove(theirs.as_str());
        let mut stored = stored(header, &theirs, info)?;
        if let Some(head_dim) = config.gguf_pairing(&name) {
            if !stored.shape[0].is_multiple_of(head_dim) {
                let reason = format!(
                    "{theirs} has {} rows, which are no whole heads of {}",
                    stored.shape[0], config.head_dim
                );
                return Err(damaged(&header.path, reason));
            }
            stored.paired = Some(head_dim);
        }
        tensors.insert(name, stored);
    }
    match unused.first() {
        Some(name) => Err(LoadError::Unsupported {
            path: header.path.to_path_buf(),
            what: format!("the tensor {name}"),
            remedy: "use a Llama, Mistral, Qwen2 or Qwen3 model without such".into(),
        }),
        None => Ok(Checkpoint::new(&header.path, tensors)),
    }
}

/// A tensor as the reader of rows wants it.
pub(super) fn stored(
    header: &Header,
    name: &str,
    info: &TensorInfo,
) -> Result<StoredTensor, LoadError> {
    let element = info.element.map_err(|number| LoadError::Unsupported {
        path: header.path.to_path_buf(),
        what: format!("ggml's type {number}, which {name} has,"),
        remedy: "use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K".into(),
    })?;
    if info.shape.contains(&0) || info.shape.is_empty() {
        return Err(damaged(&header.path, format!("{name} is empty")));
    }
    Ok(StoredTensor {
        path: header.path.clone(),
        element,
        shape: info.shape.clone(),
        start: info.start,
        paired: None,
    })
}

impl ModelConfig {
    /// What llama.cpp calls the tensor that transformers calls `name`; `None` if it has no name for it.
    pub fn gguf_name(&self, name: &str) -> Option<String> {
        their_name(name)
    }

    /// The rows of a head if llama.cpp reorders the rows of the tensor that transformers calls `name`: it makes
    /// the two rows that rotate together, `i` and `i + head_dim / 2` of a head, adjacent. `None` if it leaves
    /// the rows in order.
    pub fn gguf_pairing(&self, name: &str) -> Option<usize> {
        // These are llama.cpp's `llama` models. The other families rotate halves, as transformers
        // does.
        let is_llama = matches!(
            self.architecture,
            Architecture::Llama | Architecture::Mistral
        );
        (is_llama && is_query_or_key(name)).then_some(self.head_dim)
    }
}

fn is_query_or_key(name: &str) -> bool {
    name.contains("self_attn.q_proj") || name.contains("self_attn.k_proj")
}
