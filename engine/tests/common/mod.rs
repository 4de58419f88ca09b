//! Small random models, written to disk as a Hugging Face directory would be, and helpers to run them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

pub mod gguf;
pub mod linking;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use onegen_engine::{
    ChatMessage, Completion, Engine, EngineOptions, KvType, LoadOptions, Model, Passage, Request,
    RetrieveError, Retriever, Role, SamplingParams, SequenceInput, SpanKind, WeightType,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

pub const CONTROL: [&str; 7] = [
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "[RQ]",
    "[RD]",
    "<paragraph>",
    "</paragraph>",
];

/// How large a random model is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
}

pub const SMALL: Size = Size {
    hidden: 32,
    inner: 48,
    layers: 3,
};
/// Whole blocks of every quantised type, in all matrices but those of [`Family::Qwen3`].
pub const WIDE: Size = Size {
    hidden: 256,
    inner: 512,
    layers: 3,
};

const HEADS: usize = 4;
const VOCABULARY: usize = 384;
pub const POSITIONS: usize = 512;

/// The families and flags that the decoder knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Llama31,
    Mistral,
    Qwen2,
    Qwen3,
}

pub const FAMILIES: [Family; 5] = [
    Family::Llama,
    Family::Llama31,
    Family::Mistral,
    Family::Qwen2,
    Family::Qwen3,
];

impl Family {
    pub fn config(self, size: Size) -> Value {
        let mut config = json!({
            "hidden_size": size.hidden,
            "intermediate_size": size.inner,
            "num_hidden_layers": size.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": false,
            "eos_token_id": null,
        });
        let own = match self {
            Family::Llama => json!({
                "architectures": ["LlamaForCausalLM"],
                "num_key_value_heads": HEADS,
            }),
            Family::Llama31 => json!({
                "architectures": ["LlamaForCausalLM"],
                "rope_theta": 500000.0,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                },
            }),
            Family::Mistral => json!({
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 24,
            }),
            Family::Qwen2 => json!({
                "architectures": ["Qwen2ForCausalLM"],
                "tie_word_embeddings": true,
                "use_sliding_window": false,
                "sliding_window": 16,
            }),
            Family::Qwen3 => json!({
                "architectures": ["Qwen3ForCausalLM"],
                "tie_word_embeddings": true,
                "head_dim": 16,
            }),
        };
        for (key, value) in own.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn head_dim(self, size: Size) -> usize {
        if self == Family::Qwen3 {
            16
        } else {
            size.hidden / HEADS
        }
    }

    fn tensors(self, size: Size, seed: u64) -> HashMap<String, Tensor> {
        let config = self.config(size);
        let (hidden, inner, head_dim) = (size.hidden, size.inner, self.head_dim(size));
        // This spread gives states of the same size at every width.
        let spread = 0.4 * (SMALL.hidden as f32 / hidden as f32).sqrt();
        let kv_heads = config["num_key_value_heads"].as_u64().unwrap() as usize;
        let (q, kv) = (HEADS * head_dim, kv_heads * head_dim);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut tensors = HashMap::new();
        let mut put = |name: String, shape: &[usize], centre: f32, spread: f32| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| centre + spread * (rng.random::<f32>() * 2.0 - 1.0))
                .collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensors.insert(name, tensor);
        };
        put(
            "model.embed_tokens.weight".into(),
            &[VOCABULARY, hidden],
            0.0,
            1.0,
        );
        for layer in 0..size.layers {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            put(name("input_layernorm.weight"), &[hidden], 1.0, 0.3);
            put(name("post_attention_layernorm.weight"), &[hidden], 1.0, 0.3);
            for (projection, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
                put(
                    name(&format!("self_attn.{projection}.weight")),
                    &[out, hidden],
                    0.0,
                    spread,
                );
                if self == Family::Qwen2 {
                    put(
                        name(&format!("self_attn.{projection}.bias")),
                        &[out],
                        0.0,
                        0.5,
                    );
                }
            }
            put(name("self_attn.o_proj.weight"), &[hidden, q], 0.0, spread);
            if self == Family::Qwen3 {
                put(name("self_attn.q_norm.weight"), &[head_dim], 1.0, 0.3);
                put(name("self_attn.k_norm.weight"), &[head_dim], 1.0, 0.3);
            }
            put(name("mlp.gate_proj.weight"), &[inner, hidden], 0.0, spread);
            put(name("mlp.up_proj.weight"), &[inner, hidden], 0.0, spread);
            put(name("mlp.down_proj.weight"), &[hidden, inner], 0.0, spread);
        }
        put("model.norm.weight".into(), &[hidden], 1.0, 0.3);
        if !config["tie_word_embeddings"].as_bool().unwrap() {
            put("lm_head.weight".into(), &[VOCABULARY, hidden], 0.0, 1.0);
        }
        tensors
    }

    /// Writes a random model of this family.
    pub fn write(self, seed: u64) -> TempDir {
        self.write_sized(SMALL, seed)
    }

    /// The same of another size.
    pub fn write_sized(self, size: Size, seed: u64) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.write_into(dir.path(), size, seed);
        dir
    }

    /// The same, into a directory that the caller chooses.
    pub fn write_into(self, dir: &Path, size: Size, seed: u64) {
        std::fs::create_dir_all(dir).unwrap();
        write_json(dir, "config.json", &self.config(size));
        let weights = dir.join("model.safetensors");
        candle_core::safetensors::save(&self.tensors(size, seed), weights).unwrap();
        write_tokenizer(dir);
    }

    pub fn model(self) -> Arc<Model> {
        load(self.write(7).path())
    }

    /// The same with block attention.
    pub fn block_model(self) -> Arc<Model> {
        let dir = self.write(7);
        set_block_attention(dir.path());
        load(dir.path())
    }
}

/// Gives a written model block attention: its passages see only themselves.
pub fn set_block_attention(dir: &Path) {
    edit_json(dir, "onegen.json", |onegen| {
        onegen["passage_attention"] = "block".into();
    });
}

pub fn load(dir: &Path) -> Arc<Model> {
    Arc::new(Model::load(dir, &LoadOptions::default()).unwrap())
}

/// A model with its matrices kept in `weights`.
pub fn load_in(dir: &Path, weights: WeightType) -> Arc<Model> {
    let options = LoadOptions {
        weights: Some(weights),
        ..LoadOptions::default()
    };
    Arc::new(Model::load(dir, &options).unwrap())
}

/// A model with its keys and values kept in `kv`.
pub fn load_kept_in(dir: &Path, kv: KvType) -> Arc<Model> {
    let options = LoadOptions {
        kv,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(dir, &options).unwrap())
}

/// Every random family, some with block attention, and the model that is shipped.
pub fn models() -> Vec<(String, Arc<Model>)> {
    let mut models: Vec<_> = FAMILIES
        .iter()
        .map(|family| (format!("{family:?}"), family.model()))
        .collect();
    models.extend(
        [Family::Llama31, Family::Mistral, Family::Qwen3]
            .map(|family| (format!("{family:?} with blocks"), family.block_model())),
    );
    models.push(("almanac".into(), load(&shipped())));
    models
}

pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac")
}

/// SmolLM2's GGUF file in a directory of its own, if `ONEGEN_BASE` names the file.
pub fn smollm2() -> Option<TempDir> {
    // The variable may also name a wheel or a directory.
    let is_gguf = |file: &OsString| {
        let file = Path::new(file);
        file.is_file() && file.extension().is_some_and(|e| e == "gguf")
    };
    let Some(file) = std::env::var_os("ONEGEN_BASE").filter(is_gguf) else {
        eprintln!("SKIPPED: ONEGEN_BASE names no GGUF file");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(file, dir.path().join("smollm2.gguf")).unwrap();
    write_json(
        dir.path(),
        "onegen.json",
        &json!({
            "query_token": "<issue_start>", "passage_token": "<issue_closed>",
            "passage_open": "<file_sep>", "passage_close": "<filename>",
            "splice_template": "{title}\n{text}", "embed_template": "{title}\n{text}",
            "prompt_template": null,
        }),
    );
    Some(dir)
}

pub fn write_json(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

/// Changes a JSON file of a model directory.
pub fn edit_json(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap();
    change(&mut value);
    write_json(dir, name, &value);
}

/// A file of the shared test data, if that lies beside the project.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("../../shared/data").join(name);
    if !path.is_file() {
        eprintln!("SKIPPED: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// Writes a byte-level BPE that has learnt from a text, with these control tokens.
pub fn write_byte_level(path: &Path, text: &str, cut: ByteLevel, control: &[&str]) {
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(cut))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .unwrap();
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(300)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer
        .train(&mut trainer, [text.to_owned()].into_iter())
        .unwrap();
    let control: Vec<_> = control
        .iter()
        .map(|token| AddedToken::from(*token, true))
        .collect();
    tokenizer.add_special_tokens(&control);
    tokenizer.save(path, false).unwrap();
}

pub fn write_tokenizer(dir: &Path) {
    let text = "What is the capital of Peru? Lima is the capital of Peru, a country on the coast.";
    let path = dir.join("tokenizer.json");
    write_byte_level(&path, text, ByteLevel::new(true, true, true), &CONTROL);
    write_json(
        dir,
        "tokenizer_config.json",
        &json!({
            "eos_token": { "content": "<|end|>" },
            "chat_template": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\
                {% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}\
                {% if add_generation_prompt %}<|assistant|>{% endif %}",
        }),
    );
    write_json(
        dir,
        "onegen.json",
        &json!({
            "query_token": "[RQ]", "passage_token": "[RD]",
            "passage_open": "<paragraph>", "passage_close": "</paragraph>",
            "splice_template": "{title}: {text}", "embed_template": "{title}: {text}",
            "prompt_template": null, "add_bos": false, "max_retrievals": 5,
        }),
    );
}

pub fn passage(title: &str, text: &str) -> Passage {
    Passage {
        id: title.to_lowercase(),
        title: title.into(),
        text: text.into(),
        url: None,
        score: 0.5,
    }
}

pub fn peru() -> Passage {
    passage(
        "Peru",
        "Peru is a country on the coast. Its capital is Lima.",
    )
}

/// Answers every search with the same passages and remembers the query embeddings.
#[derive(Default)]
pub struct Shelf {
    pub passages: Vec<Passage>,
    pub queries: Mutex<Vec<Vec<f32>>>,
}

impl Shelf {
    pub fn new(passages: Vec<Passage>) -> Arc<Self> {
        Arc::new(Self {
            passages,
            ..Self::default()
        })
    }
}

impl Retriever for Shelf {
    fn retrieve(&self, query: &[f32], k: usize) -> Result<Vec<Passage>, RetrieveError> {
        self.queries.lock().unwrap().push(query.to_vec());
        Ok(self.passages.iter().take(k).cloned().collect())
    }
}

pub fn engine(model: &Arc<Model>, retriever: Option<Arc<dyn Retriever>>) -> Engine {
    Engine::start(model.clone(), retriever, EngineOptions::default()).unwrap()
}

/// Ids of a fresh conversation that asks `text`.
pub fn question(model: &Model, text: &str) -> Vec<u32> {
    let messages = [ChatMessage::new(Role::User, text)];
    model.tokens().encode_chat(&messages).unwrap()
}

/// A greedy request of `max_tokens` that does not end early.
pub fn request(model: &Model, conversation: &str, text: &str, max_tokens: usize) -> Request {
    let mut request = Request::new(conversation, question(model, text));
    request.sampling = SamplingParams {
        max_tokens: Some(max_tokens),
        logit_bias: (0..model.config().vocab_size as u32)
            .filter(|&id| model.tokens().is_eos(id))
            .map(|id| (id, -100.0))
            .collect(),
        ..SamplingParams::default()
    };
    request
}

/// The same, but `[RQ]` wins wherever it is not masked, up to `searches` times.
pub fn retrieving(
    model: &Model,
    conversation: &str,
    max_tokens: usize,
    searches: usize,
) -> Request {
    let mut request = request(
        model,
        conversation,
        "What is the capital of Peru?",
        max_tokens,
    );
    let query = model.tokens().query_id();
    request.sampling.logit_bias.insert(query, 100.0);
    request.retrieval.max_retrievals = Some(searches);
    request
}

pub fn run(engine: &Engine, request: Request) -> Completion {
    block_on(async {
        engine
            .submit(request)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap()
    })
}

/// Asks another question in a conversation whose last message is an answer.
pub fn ask_on(engine: &Engine, conversation: &str, text: &str) -> Completion {
    run(engine, next_turn(engine, conversation, text))
}

/// Another question in a conversation whose last message is an answer.
pub fn next_turn(engine: &Engine, conversation: &str, text: &str) -> Request {
    let model = engine.model();
    let held = block_on(engine.conversation(&conversation.into())).unwrap();
    let messages = [
        ChatMessage::new(Role::User, "What is the capital of Peru?"),
        ChatMessage::new(Role::Assistant, "Lima."),
        ChatMessage::new(Role::User, text),
    ];
    let end = held.log.last().map(|(id, _)| id);
    let prompt = model.tokens().encode_turn(&messages, 1, end).unwrap();
    let mut next = request(model, conversation, text, 12);
    next.prompt = prompt;
    next
}

pub fn log_ids(engine: &Engine, conversation: &str) -> Vec<u32> {
    let info = block_on(engine.conversation(&conversation.into())).unwrap();
    info.log.ids().to_vec()
}

pub use futures::executor::block_on;

/// States and logits at every position of `ids`, from one forward with an empty cache.
pub fn clean_forward(model: &Model, ids: &[u32]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut cache = model.new_cache();
    let all: Vec<usize> = (0..ids.len()).collect();
    let mut outputs = model
        .forward(&mut [SequenceInput {
            ids,
            kinds: &vec![SpanKind::Prompt; ids.len()],
            cache: &mut cache,
            hidden_at: &all,
            logits_at: &all,
        }])
        .unwrap();
    let output = outputs.remove(0);
    (output.hidden, output.logits)
}

/// The largest difference of two vectors, relative to the largest component of the first.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    let apart = a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
    apart / scale
}

pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
