//! The model: loading a directory, and one forward over a ragged batch.

mod attention;
mod decoder;
mod kv_cache;
mod rotary;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::config::ModelConfig;
use crate::counters::ForwardedTokens;
use crate::error::{ForwardError, LoadError};
use crate::token_log::SpanKind;
use crate::tokens::Tokens;

use attention::SequenceSpan;
use decoder::Decoder;
pub use kv_cache::KvCache;

/// Where and in which type a model's weights are kept.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device of weights and KV-caches. Default: CPU.
    pub device: Device,
    /// The type of weights, activations and KV-caches, whatever the files hold. Default: f32,
    /// which is the type that the CPU multiplies matrices in.
    pub dtype: DType,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }
}

/// What an index is built with: vectors of another model, tokenizer or template do not compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprints {
    /// blake3 of `config.json` and the weight files, hexadecimal.
    pub model: String,
    /// blake3 of `tokenizer.json`, hexadecimal.
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
#[derive(Debug)]
pub struct Model {
    name: String,
    config: ModelConfig,
    tokens: Arc<Tokens>,
    fingerprints: Fingerprints,
    decoder: Decoder,
    options: LoadOptions,
}

impl Model {
    /// Loads a Hugging Face style directory: `config.json`, `*.safetensors`, `tokenizer.json`, and
    /// `tokenizer_config.json`, `generation_config.json`, `onegen.json` where they are there.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file.
    pub fn load(dir: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, LoadError> {
        let dir = dir.as_ref();
        let config = ModelConfig::load(dir)?;
        let tokens = Tokens::load(dir, &config)?;
        let files = weights::files(dir)?;
        let weights = weights::open(dir, &files, &config, options)?;
        let decoder = Decoder::new(&config, weights).map_err(|source| LoadError::Weights {
            dir: dir.to_owned(),
            source,
        })?;
        let fingerprints = Fingerprints {
            model: weights::fingerprint(dir, &files)?,
            tokenizer: tokens.fingerprint().to_owned(),
            template: tokens.template_fingerprint(),
        };
        check_vocabulary(dir, &tokens, &config)?;
        Ok(Self {
            name: directory_name(dir),
            config,
            tokens: Arc::new(tokens),
            fingerprints,
            decoder,
            options: options.clone(),
        })
    }

    /// What the model is called: as its directory is, wherever the path to it starts.
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
        KvCache::new(&self.config, self.options.dtype, &self.options.device)
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
        let device = &self.options.device;
        let ids: Vec<u32> = batch.iter().flat_map(|input| input.ids).copied().collect();
        let positions: Vec<u32> = batch
            .iter()
            .flat_map(|input| (input.cache.len()..).take(input.ids.len()))
            .map(|position| position as u32)
            .collect();

        // Rows of the batch where something is wanted: states first, then logits.
        let starts: Vec<usize> = batch
            .iter()
            .scan(0, |next, input| {
                let start = *next;
                *next += input.ids.len();
                Some(start)
            })
            .collect();
        let rows_of = |wanted: fn(&SequenceInput<'_>) -> Vec<usize>| -> Vec<u32> {
            batch
                .iter()
                .zip(&starts)
                .flat_map(|(input, start)| {
                    wanted(input).into_iter().map(move |at| (start + at) as u32)
                })
                .collect()
        };
        let hidden_rows = rows_of(|input| input.hidden_at.to_vec());
        let logits_rows = rows_of(|input| input.logits_at.to_vec());

        let total = ids.len();
        let ids = Tensor::from_vec(ids, total, device)?; // (tokens)
        let positions = Tensor::from_vec(positions, total, device)?; // (tokens)
        let mut spans: Vec<SequenceSpan<'_>> = batch
            .iter_mut()
            .zip(&starts)
            .map(|(input, &start)| SequenceSpan {
                start,
                len: input.ids.len(),
                cache: input.cache,
            })
            .collect();
        for span in &mut spans {
            span.cache.reserve(span.cache.len() + span.len)?;
        }
        let states = self.decoder.states(&ids, &positions, &mut spans)?; // (tokens, hidden)
        let hidden = self.decoder.finish(&states, &hidden_rows)?;
        let logits = match self.decoder.finish(&states, &logits_rows)? {
            Some(rows) => Some(self.decoder.logits(&rows)?),
            None => None,
        };
        let mut hidden = rows_to_vecs(hidden)?.into_iter();
        let mut logits = rows_to_vecs(logits)?.into_iter();

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

fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .unwrap_or(whole.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// `(rows, width)` in any float type as f32 rows.
fn rows_to_vecs(rows: Option<Tensor>) -> Result<Vec<Vec<f32>>, candle_core::Error> {
    match rows {
        Some(rows) => rows.to_dtype(DType::F32)?.to_vec2(),
        None => Ok(Vec::new()),
    }
}

/// Every id of the tokenizer must have a row in the embedding.
fn check_vocabulary(dir: &Path, tokens: &Tokens, config: &ModelConfig) -> Result<(), LoadError> {
    match tokens.highest_id() {
        Some(id) if id as usize >= config.vocab_size => Err(LoadError::Inconsistent {
            path: dir.join("tokenizer.json"),
            reason: format!(
                "it holds the id {id}, but vocab_size in config.json is {}",
                config.vocab_size
            ),
        }),
        _ => Ok(()),
    }
}
