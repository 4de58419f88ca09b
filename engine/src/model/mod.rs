//! The model: one forward over a ragged batch.

mod adapter;
mod candle;
mod checkpoint;
mod cpu;
mod gguf;
mod kv_cache;
mod load;
mod rope;
mod rows;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::config::ModelConfig;
use crate::counters::ForwardedTokens;
use crate::error::ForwardError;
use crate::token_log::SpanKind;
use crate::tokens::Tokens;

pub use adapter::is_adapter;
use candle::{CandleDecoder, SequenceSpan};
use cpu::{CpuDecoder, CpuSpan};
pub(crate) use kv_cache::BLOCK;
pub use kv_cache::KvCache;
use kv_cache::Store;

/// Where and in which type a model's weights are kept, and by what they are multiplied.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device of weights and KV-caches. Default: CPU.
    pub device: Device,
    /// The type that matrices are kept in. `None`, the default, keeps on the CPU what the files hold,
    /// and bf16 elsewhere.
    pub weights: Option<WeightType>,
    /// Whose kernels run on the CPU. Default: our own.
    pub kernels: Kernels,
    /// The model that an adapter changes: a GGUF file or a Hugging Face style directory. It is not looked
    /// at where no adapter is loaded.
    pub base: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            weights: None,
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
    /// 4 bits, a 6-bit scale and minimum for each 32 columns and their units for each 256 (ggml's
    /// `Q4_K`), with activations as for `Q8_0`. Embedding and head, and matrices whose columns are not
    /// whole blocks of 256, are kept in `Q8_0`.
    #[expect(non_camel_case_types, reason = "it is called so")]
    Q4_K,
}

impl WeightType {
    /// All types, by falling size.
    pub const ALL: [WeightType; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_K];

    /// The type's name: `f32`, `f16`, `bf16`, `q8_0` or `q4_k`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_K => "q4_k",
        }
    }
}

impl std::str::FromStr for WeightType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("{name:?} is none of {names}")
        })
    }
}

/// By what matrices are multiplied on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Our own: results do not depend on the batch, and any [`WeightType`] will do.
    Own,
    /// candle's and mistral.rs's, in f32: the reference that the others are tested against.
    Candle,
}

/// Who forwards.
enum Decoder {
    Cpu(Box<CpuDecoder>),
    Candle(Box<CandleDecoder>),
}

/// What an index is built with: vectors of another model, tokenizer or template do not compare.
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SequenceOutput {
    /// For each of `hidden_at` the last layer's state after the final norm, `hidden_size` numbers.
    pub hidden: Vec<Vec<f32>>,
    /// For each of `logits_at` the logits, `vocab_size` numbers.
    pub logits: Vec<Vec<f32>>,
    /// The positions forwarded, by kind: exactly one for each id.
    pub forwarded: ForwardedTokens,
}

/// A loaded model. It is never changed, so any number of threads may forward through it.
pub struct Model {
    name: String,
    config: ModelConfig,
    tokens: Arc<Tokens>,
    fingerprints: Fingerprints,
    decoder: Decoder,
    options: LoadOptions,
}

impl Model {
    /// What the model is called: as its directory is (an adapter as its own), wherever the path to it starts,
    /// or as its GGUF file.
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

    /// What an index over this model's embeddings must have been built with.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// Keys and values of another fingerprint are not what this model would compute.
    pub(crate) fn kv_fingerprint(&self) -> String {
        let LoadOptions {
            device,
            weights,
            kernels,
            base: _,
        } = &self.options;
        let parts = format!(
            "{} {weights:?} {kernels:?} {:?}",
            self.fingerprints.model,
            device.location()
        );
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

    /// An empty KV-cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        match &self.decoder {
            Decoder::Cpu(_) => KvCache::on_cpu(&self.config),
            Decoder::Candle(decoder) => {
                KvCache::in_tensors(&self.config, decoder.dtype(), &self.options.device)
            }
        }
    }

    /// Forwards new tokens of several sequences at once: the linear layers see all of them as one
    /// matrix, attention sees each sequence with its own KV-cache. Nothing is padded.
    ///
    /// One output for each input, in order. Every id is forwarded, written into its sequence's
    /// cache and counted, whether or not anything is wanted of it.
    ///
    /// # Errors
    /// An input is empty, does not fit its positions or holds an unknown id, or the tensor library
    /// failed. No cache has grown then.
    pub fn forward(
        &self,
        batch: &mut [SequenceInput<'_>],
    ) -> Result<Vec<SequenceOutput>, ForwardError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        for input in batch.iter() {
            self.check(input)?;
        }
        for input in batch.iter_mut() {
            input.cache.reserve(input.cache.len() + input.ids.len())?;
        }
        let wanted = Wanted::of(batch);
        let (hidden, logits) = match &self.decoder {
            Decoder::Cpu(decoder) => Self::forward_on_cpu(decoder, batch, &wanted)?,
            Decoder::Candle(decoder) => self.forward_in_candle(decoder, batch, &wanted)?,
        };
        let (mut hidden, mut logits) = (hidden.into_iter(), logits.into_iter());
        Ok(batch
            .iter_mut()
            .map(|input| {
                // **Invariant:** a cache grows by exactly the positions that are counted here.
                input.cache.grow(input.ids.len());
                SequenceOutput {
                    hidden: hidden.by_ref().take(input.hidden_at.len()).collect(),
                    logits: logits.by_ref().take(input.logits_at.len()).collect(),
                    forwarded: ForwardedTokens::of(input.kinds),
                }
            })
            .collect())
    }

    fn forward_on_cpu(
        decoder: &CpuDecoder,
        batch: &mut [SequenceInput<'_>],
        wanted: &Wanted,
    ) -> Result<(RowVecs, RowVecs), ForwardError> {
        let mut spans = Vec::with_capacity(batch.len());
        for input in batch {
            let past = input.cache.len();
            let Store::Cpu(kv) = &mut input.cache.store else {
                return Err(ForwardError::Input("a KV-cache in tensors".into()));
            };
            spans.push(CpuSpan {
                ids: input.ids,
                kv,
                past,
            });
        }
        Ok(decoder.forward(&mut spans, wanted.hidden_rows(), wanted.logits_rows()))
    }

    fn forward_in_candle(
        &self,
        decoder: &CandleDecoder,
        batch: &mut [SequenceInput<'_>],
        wanted: &Wanted,
    ) -> Result<(RowVecs, RowVecs), ForwardError> {
        let device = &self.options.device;
        let ids: Vec<u32> = batch.iter().flat_map(|input| input.ids).copied().collect();
        let positions: Vec<u32> = batch
            .iter()
            .flat_map(|input| (input.cache.len()..).take(input.ids.len()))
            .map(|position| position as u32)
            .collect();
        let total = ids.len();
        let ids = Tensor::from_vec(ids, total, device)?; // (tokens)
        let positions = Tensor::from_vec(positions, total, device)?; // (tokens)
        let mut spans = Vec::with_capacity(batch.len());
        let mut start = 0;
        for input in batch {
            let (past, len) = (input.cache.len(), input.ids.len());
            let Store::Candle(cache) = &mut input.cache.store else {
                return Err(ForwardError::Input("a KV-cache in blocks".into()));
            };
            spans.push(SequenceSpan {
                start,
                len,
                cache,
                past,
            });
            start += len;
        }
        let states = decoder.states(&ids, &positions, &mut spans)?; // (tokens, hidden)
        let hidden = decoder.finish(&states, wanted.hidden_rows())?;
        let logits = match decoder.finish(&states, wanted.logits_rows())? {
            Some(rows) => Some(decoder.logits(&rows)?),
            None => None,
        };
        Ok((rows_to_vecs(hidden)?, rows_to_vecs(logits)?))
    }

    fn check(&self, input: &SequenceInput<'_>) -> Result<(), ForwardError> {
        let count = input.ids.len();
        if count == 0 || input.kinds.len() != count {
            return Err(ForwardError::Input(format!(
                "{count} ids with {} kinds",
                input.kinds.len()
            )));
        }
        let needed = input.cache.len() + count;
        if needed > self.max_positions() {
            return Err(ForwardError::ContextLength {
                needed,
                available: self.max_positions(),
            });
        }
        if let Some(id) = input
            .ids
            .iter()
            .find(|&&id| id as usize >= self.config.vocab_size)
        {
            return Err(ForwardError::Input(format!(
                "the id {id} with a vocabulary of {}",
                self.config.vocab_size
            )));
        }
        let mut wanted = input.hidden_at.iter().chain(input.logits_at);
        if let Some(at) = wanted.find(|&&at| at >= count) {
            return Err(ForwardError::Input(format!(
                "offset {at} wanted of {count} ids"
            )));
        }
        if !input.cache.fits(&self.config) {
            return Err(ForwardError::Input("the KV-cache of another model".into()));
        }
        Ok(())
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

/// Rows of numbers.
type RowVecs = Vec<Vec<f32>>;

/// Rows of a batch where something is wanted.
struct Wanted {
    /// States first, then logits.
    rows: Vec<u32>,
    states: usize,
}

impl Wanted {
    fn of(batch: &[SequenceInput<'_>]) -> Self {
        let mut rows = Vec::new();
        let add = |rows: &mut Vec<u32>, wanted: fn(&SequenceInput<'_>) -> Vec<usize>| {
            let mut start = 0;
            for input in batch {
                rows.extend(wanted(input).into_iter().map(|at| (start + at) as u32));
                start += input.ids.len();
            }
        };
        add(&mut rows, |input| input.hidden_at.to_vec());
        let states = rows.len();
        add(&mut rows, |input| input.logits_at.to_vec());
        Self { rows, states }
    }

    fn hidden_rows(&self) -> &[u32] {
        &self.rows[..self.states]
    }

    fn logits_rows(&self) -> &[u32] {
        &self.rows[self.states..]
    }
}

/// `(rows, width)` in any float type as f32 rows.
fn rows_to_vecs(rows: Option<Tensor>) -> Result<Vec<Vec<f32>>, candle_core::Error> {
    match rows {
        Some(rows) => rows.to_dtype(DType::F32)?.to_vec2(),
        None => Ok(Vec::new()),
    }
}
