//! The model: one forward over a ragged batch.

mod adapter;
#[cfg(feature = "mistralrs")]
mod candle;
mod checkpoint;
mod cpu;
mod decoder;
pub(crate) mod device;
mod embed;
mod forward;
mod ggml;
mod gguf;
mod kv_cache;
mod kv_type;
mod load;
mod named;
pub(crate) mod normalise;
mod passage_kv;
mod rope;
mod rows;
mod source;
mod span;
mod stacked;
mod stored;
mod tensors;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::counters::ForwardedTokens;
use crate::tokens::Tokens;
use crate::tokens::passage_block::BlockMarks;
use crate::tokens::token_log::SpanKind;

pub use adapter::is_adapter;
pub use cpu::Q8Matrix;
use decoder::Decoder;
use device::DeviceName;
pub use embed::EmbeddedText;
pub use ggml::GgmlType;
pub use gguf::{GgufEntry, GgufPreTokenizer, gguf_pre_tokenizers};
pub(crate) use kv_cache::BLOCK;
pub use kv_cache::KvCache;
pub use kv_type::KvType;
pub(crate) use passage_kv::BlockDigest;
pub use passage_kv::{PassageBlock, PassageKv};
pub use source::ModelFiles;
pub use tensors::{TensorRows, Tensors};

/// The device of a model's weights, the type that they are kept in, and the kernels that multiply
/// them.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device of weights and KV-caches. Default: CPU.
    pub device: DeviceName,
    /// The type that matrices are kept in. `None`, the default, keeps on the CPU what the files hold,
    /// and bf16 elsewhere.
    pub weights: Option<WeightType>,
    /// The type that keys and values are kept in on the CPU by our own kernels. Default: [`KvType::Q8_0`].
    pub kv: KvType,
    /// The kernels that run on the CPU. Default: our own.
    pub kernels: Kernels,
    /// The model that an adapter changes: a GGUF file or a Hugging Face style directory. It is ignored if
    /// the loaded model is not an adapter.
    pub base: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: DeviceName::Cpu,
            weights: None,
            kv: KvType::default(),
            kernels: Kernels::Own,
            base: None,
        }
    }
}

/// The type of a matrix's numbers, the finest first. Vectors (norms and biases) are kept in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightType {
    /// 32 bits
    F32,
    /// 16 bits, IEEE
    F16,
    /// 16 bits, the upper half of an f32
    Bf16,
    /// 8 bits and a scale for each 32 columns (ggml's `Q8_0`): activations are quantised alike
    Q8_0,
    /// 4 bits, a scale and a minimum for each 32 columns (ggml's `Q4_1`), with activations as for `Q8_0`. If
    /// this type is asked for, embedding and head are kept in `Q8_0`. Matrices whose columns are not whole
    /// blocks are treated as for `Q8_0`.
    Q4_1,
    /// 4 bits, a 6-bit scale and minimum for each 32 columns, and units of these for each 256 columns
    /// (ggml's `Q4_K`), with activations as for `Q8_0`. Embedding and head, and matrices whose columns
    /// are not whole blocks of 256, are kept in `Q8_0`.
    #[expect(non_camel_case_types, reason = "it is called so")]
    Q4_K,
    /// 4 bits and a scale for each 32 columns (ggml's `Q4_0`), else as for `Q4_1`.
    Q4_0,
}

impl WeightType {
    /// All types, by falling size.
    pub const ALL: [WeightType; 7] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_1,
        Self::Q4_K,
        Self::Q4_0,
    ];

    /// The type's name: `f32`, `f16`, `bf16`, `q8_0`, `q4_1`, `q4_k` or `q4_0`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_K => "q4_k",
            Self::Q4_0 => "q4_0",
        }
    }
}

impl std::str::FromStr for WeightType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named::find(&Self::ALL, Self::as_str, name)
    }
}

/// The kernels that multiply matrices on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Our own: results do not depend on the batch, and every [`WeightType`] is supported.
    Own,
    /// candle's and mistral.rs's, in f32: the reference that the others are tested against. They need the
    /// feature `mistralrs`.
    Candle,
}

/// Identifies what an index was built with. Vectors of another model, tokenizer or template cannot
/// be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints {
    /// blake3 of `config.json` and the weight files, or of the GGUF file, hexadecimal. An adapter's covers
    /// its base's and its own files.
    pub model: String,
    /// blake3 of `tokenizer.json`, or of a GGUF file's tokenizer, hexadecimal.
    pub tokenizer: String,
    /// blake3 of the template that passages are embedded with, hexadecimal.
    pub template: String,
}

/// New tokens of one sequence, and what is wanted of them.
#[derive(Debug)]
pub struct SequenceInput<'a> {
    /// The new tokens' ids, at least one. They follow what the cache holds.
    pub ids: &'a [u32],
    /// The kind of each, under which its position is counted.
    pub kinds: &'a [SpanKind],
    /// The sequence's KV-cache, which grows by the new tokens.
    pub cache: &'a mut KvCache,
    /// Offsets into `ids` where the hidden state is wanted.
    pub hidden_at: &'a [usize],
    /// Offsets into `ids` where the logits are wanted.
    pub logits_at: &'a [usize],
}

/// What was wanted of one sequence.
#[derive(Debug, Default)]
pub struct SequenceOutput {
    /// For each of `hidden_at` the last layer's state after the final norm, `hidden_size` numbers.
    pub hidden: Vec<Vec<f32>>,
    /// For each of `logits_at` the logits, `vocab_size` numbers.
    pub logits: Vec<Vec<f32>>,
    /// The passage blocks that were completed, in order, of a model with block attention.
    pub passages: Vec<PassageBlock>,
    /// The positions forwarded, by kind: exactly one for each id.
    pub forwarded: ForwardedTokens,
}

/// A loaded model. It is never changed, so any number of threads may forward through it.
pub struct Model {
    name: String,
    config: ModelConfig,
    tokens: Arc<Tokens>,
    fingerprints: Fingerprints,
    decoder: Box<dyn Decoder>,
    options: LoadOptions,
}

impl Model {
    /// The model's name: that of its directory (for an adapter, the adapter's own) or of its GGUF file,
    /// whatever path it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's tokenizer, control tokens and templates.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The fingerprints that an index of this model's embeddings must have.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// Identifies the model and kernels that compute keys and values. Those of another fingerprint
    /// differ from what this model would compute.
    pub fn kv_fingerprint(&self) -> String {
        let LoadOptions {
            device,
            weights,
            kv,
            kernels,
            base: _,
        } = &self.options;
        let mut parts = format!(
            "{} {weights:?} {kv} {kernels:?} {device:?}",
            self.fingerprints.model,
        );
        if *weights == Some(WeightType::Q4_K) {
            // Earlier builds quantised to other blocks.
            parts += " fitted by least squares";
        }
        if let Some(BlockMarks { open, end }) = self.tokens.block_marks() {
            parts += &format!(" passages from {open} to {end} see themselves");
        }
        blake3::hash(parts.as_bytes()).to_hex().to_string()
    }

    /// Components of an embedding.
    pub fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    /// Positions that a sequence can hold.
    pub fn max_positions(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// Bytes that a cache will have allocated after these ids are forwarded.
    pub(crate) fn bytes_after(&self, cache: &KvCache, ids: &[u32]) -> usize {
        let marks = self.tokens.block_marks();
        let open = marks.map_or(0, |marks| marks.open_after(cache.open_len(), ids));
        cache.bytes_after(cache.len() + ids.len() - open, open)
    }

    /// Bytes that one short sequence needs at any point of a passage block. An incomplete block needs
    /// memory of its own.
    pub(crate) fn least_kv_bytes(&self) -> usize {
        let begun = usize::from(self.tokens.block_marks().is_some());
        self.new_cache().bytes_for(1) * (1 + begun)
    }

    /// How many positions a sequence can hold in `bytes` bytes.
    pub(crate) fn positions_in(&self, bytes: usize) -> usize {
        let cache = self.new_cache();
        let begun = self.least_kv_bytes() - cache.bytes_for(1);
        cache.positions_in(bytes.saturating_sub(begun))
    }

    /// An empty KV-cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(self.decoder.new_store())
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
