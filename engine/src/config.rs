//! `config.json`: the architecture of a decoder and its sizes.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::LoadError;
use crate::files::read_json;

/// The families of decoders that OneGen checkpoints exist for. They differ only in flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3.x (`LlamaForCausalLM`).
    Llama,
    /// Mistral (`MistralForCausalLM`).
    Mistral,
    /// Qwen2 and Qwen2.5 (`Qwen2ForCausalLM`).
    Qwen2,
    /// Qwen3 (`Qwen3ForCausalLM`).
    Qwen3,
}

/// How rotary frequencies are stretched beyond the positions of pre-training.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// No stretching.
    Default,
    /// All frequencies are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies are divided, high ones kept, and those between are interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high.
        high_freq_factor: f32,
        /// Positions of pre-training.
        original_max_position_embeddings: usize,
    },
    /// Each frequency is divided by its own factor. GGUF files store Llama 3.1's scaling in this
    /// form.
    #[serde(skip)]
    Factors(Arc<[f32]>),
}

/// Attention limited to the last positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// A position sees itself and the `positions - 1` before it.
    pub positions: usize,
    /// The first layer that is limited.
    pub from_layer: usize,
}

/// The activation within the MLPs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `x * sigmoid(x)`, which all families use.
    Silu,
    /// Another one, as `config.json` names it. Only mistral.rs's layers may support it.
    #[serde(untagged)]
    Other(serde_json::Value),
}

/// The shape of a decoder, one set of flags for all families.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream and of every embedding.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Rows of the embedding: the tokenizer's ids and padding.
    pub vocab_size: usize,
    /// Positions that the model can hold.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RmsNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// The MLP's activation.
    pub hidden_act: Activation,
    /// Whether the embedding matrix is also the head.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Attention limited to the last positions, if it is.
    pub sliding_window: Option<SlidingWindow>,
    /// Ids that end a turn, as far as the configuration names them.
    pub eos_token_ids: Vec<u32>,
    /// The id that starts a text, if the configuration names it.
    pub bos_token_id: Option<u32>,
}

/// The linear layers of a decoder layer, under the names that transformers gives them.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// `config.json` as it is written.
#[derive(Deserialize)]
struct Raw {
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f32>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    hidden_act: Activation,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<serde_json::Value>,
    eos_token_id: Option<OneOrMany>,
    bos_token_id: Option<u32>,
}

/// An id, or a list of ids.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            OneOrMany::One(id) => vec![id],
            OneOrMany::Many(ids) => ids,
        }
    }
}

/// More layers than any model has.
const MOST_LAYERS: usize = 1 << 12;
/// A larger number than any other size of a model.
const MOST: usize = 1 << 26;

impl ModelConfig {
    /// Each of [`PROJECTIONS`] with its outputs and inputs.
    pub fn projections(&self) -> [(&'static str, (usize, usize)); 7] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let [q, k, v, o, gate, up, down] = PROJECTIONS;
        [
            (q, (queries, hidden)),
            (k, (keys, hidden)),
            (v, (keys, hidden)),
            (o, (hidden, queries)),
            (gate, (inner, hidden)),
            (up, (inner, hidden)),
            (down, (hidden, inner)),
        ]
    }

    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// The file is missing or damaged, its family or a setting is not supported, or its numbers
    /// contradict one another.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("config.json");
        let raw: Raw = read_json(&path)?;
        Self::from_raw(raw, &path)
    }

    fn from_raw(raw: Raw, path: &Path) -> Result<Self, LoadError> {
        let unsupported = |what: String, remedy: &str| LoadError::Unsupported {
            path: path.to_owned(),
            what,
            remedy: remedy.to_owned(),
        };
        let architecture = match raw.architectures.first().map(String::as_str) {
            Some("LlamaForCausalLM") => Architecture::Llama,
            Some("MistralForCausalLM") => Architecture::Mistral,
            Some("Qwen2ForCausalLM") => Architecture::Qwen2,
            Some("Qwen3ForCausalLM") => Architecture::Qwen3,
            _ => {
                return Err(unsupported(
                    format!("the architecture {:?}", raw.architectures),
                    "use a Llama, Mistral, Qwen2 or Qwen3 checkpoint",
                ));
            }
        };
        if raw.quantization_config.is_some() {
            return Err(unsupported(
                "quantization_config".into(),
                "use the checkpoint's unquantised weights",
            ));
        }
        if raw.mlp_bias {
            return Err(unsupported(
                "mlp_bias".into(),
                "use a checkpoint without biases in its MLPs",
            ));
        }
        let (rope_theta, rope_scaling) = rope(&raw, path)?;
        let config = Self {
            architecture,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            num_key_value_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim: raw
                .head_dim
                .unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            vocab_size: raw.vocab_size,
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta,
            rope_scaling,
            hidden_act: raw.hidden_act.clone(),
            tie_word_embeddings: raw.tie_word_embeddings,
            qkv_bias: architecture == Architecture::Qwen2 || raw.attention_bias,
            output_bias: architecture != Architecture::Qwen2 && raw.attention_bias,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: sliding_window(architecture, &raw),
            eos_token_ids: raw.eos_token_id.map_or_else(Vec::new, OneOrMany::into_vec),
            bos_token_id: raw.bos_token_id,
        };
        let checked = config
            .check()
            .and_then(|()| config.check_layer_types(raw.layer_types.as_deref()));
        checked.map_err(|reason| inconsistent(path, reason))?;
        Ok(config)
    }

    /// Whether the numbers fit together. They become loop bounds and sizes of memory, so none may be absurd.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0"));
        }
        let most = |name: &str| match name {
            "num_hidden_layers" => MOST_LAYERS,
            _ => MOST,
        };
        if let Some((name, size)) = sizes.iter().find(|(name, size)| *size > most(name)) {
            return Err(format!(
                "{name} is {size}, and no model has more than {}",
                most(name)
            ));
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(format!(
                "{} query heads cannot share {} key and value heads evenly",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "head_dim is {}, but rotary embeddings need pairs",
                self.head_dim
            ));
        }
        Ok(())
    }

    /// Whether the layers that newer files list as having a window are those that have one.
    fn check_layer_types(&self, listed: Option<&[String]>) -> Result<(), String> {
        let each = listed.unwrap_or_default().iter().enumerate();
        let mut each = each.map(|(layer, kind)| (layer, kind == "sliding_attention"));
        match each.find(|(layer, windowed)| self.window(*layer).is_some() != *windowed) {
            Some((layer, windowed)) => Err(format!(
                "layer_types says that layer {layer} has {} window, and the other settings of it contradict that",
                if windowed { "a" } else { "no" }
            )),
            None => Ok(()),
        }
    }

    /// The window that attention in `layer` is limited to, if it is.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window
            .filter(|window| layer >= window.from_layer)
            .map(|window| window.positions)
    }
}

fn inconsistent(path: &Path, reason: String) -> LoadError {
    LoadError::Inconsistent {
        path: path.to_owned(),
        reason,
    }
}

/// Base and scaling, from `rope_theta` and `rope_scaling` or the newer `rope_parameters`.
fn rope(raw: &Raw, path: &Path) -> Result<(f32, RopeScaling), LoadError> {
    let newer = raw.rope_parameters.as_ref();
    let of_newer = newer.and_then(|newer| Some(newer.get("rope_theta")?.as_f64()? as f32));
    if let (Some(one), Some(other)) = (raw.rope_theta, of_newer)
        && one != other
    {
        let reason = format!("rope_theta is {one}, but {other} in rope_parameters");
        return Err(inconsistent(path, reason));
    }
    let theta = raw.rope_theta.or(of_newer).unwrap_or(10_000.0);
    let Some(serde_json::Value::Object(written)) = raw.rope_scaling.as_ref().or(newer) else {
        return Ok((theta, RopeScaling::Default));
    };
    let mut written = written.clone();
    // Older files say `type`.
    if let Some(older) = written.remove("type") {
        written.entry("rope_type").or_insert(older);
    }
    written
        .entry("rope_type")
        .or_insert_with(|| "default".into());
    let kind = written["rope_type"].to_string();
    let scaling =
        serde_json::from_value(written.into()).map_err(|error| LoadError::Unsupported {
            path: path.to_owned(),
            what: format!("the rope scaling {kind} ({error})"),
            remedy: "default, linear and llama3 are".into(),
        })?;
    Ok((theta, scaling))
}

fn sliding_window(architecture: Architecture, raw: &Raw) -> Option<SlidingWindow> {
    let positions = raw.sliding_window?;
    match architecture {
        Architecture::Llama => None,
        Architecture::Mistral => Some(SlidingWindow {
            positions,
            from_layer: 0,
        }),
        // Qwen's files contain a window that is unused unless this flag is set, and then it applies
        // only from some layer on.
        Architecture::Qwen2 | Architecture::Qwen3 => {
            raw.use_sliding_window
                .unwrap_or(false)
                .then(|| SlidingWindow {
                    positions,
                    from_layer: raw.max_window_layers.unwrap_or(0),
                })
        }
    }
}
