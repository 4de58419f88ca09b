//! Models written as llama.cpp's converter writes them.

use std::collections::{BTreeMap, HashMap};
use std::f32::consts::PI;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;
use tempfile::TempDir;

/// The content of a GGUF file.
pub struct GgufFile {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, QTensor>,
}

/// transformers' and llama.cpp's names of the tensors.
const NAMES: [(&str, &str); 14] = [
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.", "ffn_"),
    ("_proj.", "."),
];

impl GgufFile {
    /// The model in `dir` with its matrices in `element`, if their rows are whole blocks of it.
    pub fn new(dir: &Path, element: GgmlDType) -> Self {
        let config = read_json(&dir.join("config.json"));
        let size = |key: &str| config[key].as_u64().unwrap() as usize;
        let architecture = match config["architectures"][0].as_str().unwrap() {
            "Qwen2ForCausalLM" => "qwen2",
            "Qwen3ForCausalLM" => "qwen3",
            _ => "llama",
        };
        let heads = size("num_attention_heads");
        let head_dim = config["head_dim"].as_u64();
        let head_dim = head_dim.map_or(size("hidden_size") / heads, |width| width as usize);
        let mut file = Self {
            metadata: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        file.set("general.architecture", text(architecture));
        for (key, ours) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ] {
            file.set(&format!("{architecture}.{key}"), count(size(ours)));
        }
        for key in ["attention.key_length", "attention.value_length"] {
            file.set(&format!("{architecture}.{key}"), count(head_dim));
        }
        let eps = config["rms_norm_eps"].as_f64().unwrap() as f32;
        file.set(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            Value::F32(eps),
        );
        let theta = [
            &config["rope_theta"],
            &config["rope_parameters"]["rope_theta"],
        ];
        let theta = theta.iter().find_map(|theta| theta.as_f64()).unwrap() as f32;
        file.set(&format!("{architecture}.rope.freq_base"), Value::F32(theta));
        if config["architectures"][0] == "MistralForCausalLM" {
            file.set(
                "llama.attention.sliding_window",
                count(size("sliding_window")),
            );
        }
        for scaling in [&config["rope_scaling"], &config["rope_parameters"]] {
            if scaling["rope_type"] == "llama3" {
                let factors = llama3_factors(scaling, theta, head_dim);
                let factors = Tensor::new(factors, &Device::Cpu).unwrap();
                file.put("rope_freqs.weight", &factors, GgmlDType::F32);
            }
        }
        for (name, tensor) in matrices(dir) {
            let paired = name.contains("q_proj") || name.contains("k_proj");
            let tensor = if paired && architecture == "llama" {
                pair_rows(&tensor, head_dim)
            } else {
                tensor
            };
            let theirs = NAMES
                .iter()
                .fold(name, |name, (ours, theirs)| name.replace(ours, theirs));
            file.put(&theirs, &tensor, fitting(&tensor, element));
        }
        file.add_tokenizer(dir);
        file
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    pub fn put(&mut self, name: &str, tensor: &Tensor, element: GgmlDType) {
        let tensor = QTensor::quantize(tensor, element).unwrap();
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Adds the content of `tokenizer.json` and `tokenizer_config.json` in `dir`.
    fn add_tokenizer(&mut self, dir: &Path) {
        let tokenizer = read_json(&dir.join("tokenizer.json"));
        let config = read_json(&dir.join("tokenizer_config.json"));
        let mut tokens: Vec<(u64, String, i32)> = tokenizer["model"]["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(token, id)| (id.as_u64().unwrap(), token.clone(), 1))
            .collect();
        for added in tokenizer["added_tokens"].as_array().unwrap() {
            let content = added["content"].as_str().unwrap().to_owned();
            tokens.push((added["id"].as_u64().unwrap(), content, 3));
        }
        tokens.sort();
        let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
        let merges = merges.map(|pair| {
            let part = |at: usize| pair[at].as_str().unwrap();
            text(&format!("{} {}", part(0), part(1)))
        });
        let eos = config["eos_token"]["content"].as_str().unwrap();
        let eos = tokens
            .iter()
            .position(|(_, token, _)| token == eos)
            .unwrap();
        self.set("tokenizer.ggml.model", text("gpt2"));
        self.set("tokenizer.ggml.pre", text("gpt-2"));
        self.set("tokenizer.ggml.merges", Value::Array(merges.collect()));
        self.set("tokenizer.ggml.eos_token_id", count(eos));
        let template = config["chat_template"].as_str().unwrap();
        self.set("tokenizer.chat_template", text(template));
        self.set_tokens(tokens.into_iter().map(|(_, token, kind)| (token, kind)));
    }

    /// The list of tokens and that of their types.
    pub fn set_tokens(&mut self, tokens: impl Iterator<Item = (String, i32)>) {
        let (tokens, types) = tokens
            .map(|(token, kind)| (Value::String(token), Value::I32(kind)))
            .unzip();
        self.set("tokenizer.ggml.tokens", Value::Array(tokens));
        self.set("tokenizer.ggml.token_type", Value::Array(types));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
        bytes.into_inner()
    }

    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }
}

pub fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub fn count(count: usize) -> Value {
    Value::U32(count as u32)
}

/// The model in `dir` as one GGUF file, with the `onegen.json` beside it.
pub fn as_gguf(dir: &Path, element: GgmlDType) -> TempDir {
    let whole = tempfile::tempdir().unwrap();
    GgufFile::new(dir, element).write(&whole.path().join("tiny.gguf"));
    fs::copy(dir.join("onegen.json"), whole.path().join("onegen.json")).unwrap();
    whole
}

/// The model in `dir` with its matrices rounded as `element` rounds them, but kept in f32.
pub fn rounded(dir: &Path, element: GgmlDType) -> TempDir {
    let other = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, other.path().join(path.file_name().unwrap())).unwrap();
    }
    let tensors: HashMap<_, _> = matrices(dir)
        .into_iter()
        .map(|(name, tensor)| {
            let rounded = QTensor::quantize(&tensor, fitting(&tensor, element)).unwrap();
            (name, rounded.dequantize(&Device::Cpu).unwrap())
        })
        .collect();
    candle_core::safetensors::save(&tensors, other.path().join("model.safetensors")).unwrap();
    other
}

/// As llama.cpp's programs do, vectors and rows that are not whole blocks are kept in f32.
fn fitting(tensor: &Tensor, element: GgmlDType) -> GgmlDType {
    let dims = tensor.dims();
    if dims.len() == 2 && dims[1].is_multiple_of(element.block_size()) {
        element
    } else {
        GgmlDType::F32
    }
}

fn matrices(dir: &Path) -> HashMap<String, Tensor> {
    let file = dir.join("model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let wide = |tensor: Tensor| tensor.to_dtype(DType::F32).unwrap();
    tensors.into_iter().map(|(n, t)| (n, wide(t))).collect()
}

/// Puts rows in the converter's order, in which the rows that rotate together are adjacent.
fn pair_rows(tensor: &Tensor, head_dim: usize) -> Tensor {
    let rows = tensor.dims()[0];
    let rest = tensor.elem_count() / rows;
    tensor
        .reshape((rows / head_dim, 2, head_dim / 2, rest))
        .and_then(|halves| halves.transpose(1, 2)?.contiguous()?.reshape(tensor.dims()))
        .unwrap()
}

/// The factors that the converter writes for Llama 3.1's scaling.
fn llama3_factors(scaling: &Json, theta: f32, head_dim: usize) -> Vec<f32> {
    let number = |key: &str| scaling[key].as_f64().unwrap() as f32;
    let (factor, low, high) = (
        number("factor"),
        number("low_freq_factor"),
        number("high_freq_factor"),
    );
    let trained = number("original_max_position_embeddings");
    let factors = (0..head_dim / 2).map(|i| {
        let wave_length = 2.0 * PI * theta.powf(2.0 * i as f32 / head_dim as f32);
        if wave_length < trained / high {
            1.0
        } else if wave_length > trained / low {
            factor
        } else {
            let smooth = (trained / wave_length - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    factors.collect()
}

fn read_json(path: &Path) -> Json {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
