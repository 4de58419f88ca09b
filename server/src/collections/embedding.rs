//! Embeds texts with the served model, outside of the step loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onegen_engine::{ForwardError, Model, Tokens, TokensError, TooLong};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::collections::encoding::Encoding;
use crate::wire::blocking::blocking_within;
use crate::wire::errors::ApiError;

/// Positions that are forwarded at once, as many as in a step of the engine. Meanwhile the engine's
/// turns share the processor with them.
const BATCH_POSITIONS: usize = 512;

/// Embeds for all requests, one batch at a time, in the order in which batches are asked for. So
/// other requests get their turn between the batches of a long upload. If a client disconnects, its
/// request ends after the current batch.
pub(crate) struct Embedding {
    model: Arc<Model>,
    encoding: Encoding,
    one: Arc<Semaphore>,
    forwarded: AtomicU64,
}

/// Why a text has no embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotEmbedded {
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// A vocabulary that was made from other texts may lack some control characters.
    #[error("the model's vocabulary has no token for any of its characters")]
    NoTokens,
}

/// A text's embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextEmbedding {
    /// The embedding, of length 1.
    pub(crate) vector: Vec<f32>,
    /// Positions that were forwarded for it, control tokens included.
    pub(crate) tokens: usize,
}

impl Embedding {
    pub(crate) fn new(model: Arc<Model>, encoding: Encoding) -> Self {
        Self {
            model,
            encoding,
            one: Arc::new(Semaphore::new(1)),
            forwarded: AtomicU64::new(0),
        }
    }

    /// Where the texts that are embedded become ids.
    pub(crate) fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// Positions that were forwarded for embeddings since the start.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    fn count(&self, positions: usize) {
        self.forwarded
            .fetch_add(positions as u64, Ordering::Relaxed);
    }

    /// Embeds (title, text) pairs as passages: the state at `[RD]`.
    ///
    /// # Errors
    /// The tokenizer or the forward failed.
    pub(crate) async fn passages(
        &self,
        texts: Vec<(String, String)>,
    ) -> Result<Vec<Result<TextEmbedding, NotEmbedded>>, ApiError> {
        let bytes = texts
            .iter()
            .map(|(title, text)| title.len() + text.len())
            .sum();
        let model = self.model.clone();
        let encode = move |tokens: &Tokens| -> Result<Vec<_>, TokensError> {
            let each = texts.iter();
            each.map(|(title, text)| {
                if has_no_tokens(tokens, &[title, text])? {
                    return Ok(Err(NotEmbedded::NoTokens));
                }
                let fitting = model.fitting(tokens.passage_ids(title, text))?;
                Ok(fitting.map_err(NotEmbedded::from))
            })
            .collect()
        };
        let encoded = self.encoding.run(bytes, encode).await?;
        let encoded = encoded.map_err(|error| ApiError::Internal(error.to_string()))?;
        let lengths: Vec<_> = encoded
            .iter()
            .map(|ids| ids.as_ref().map(Vec::len).map_err(|refused| *refused))
            .collect();
        let ids: Vec<Vec<u32>> = encoded.into_iter().flatten().collect();
        let mut vectors = Vec::with_capacity(ids.len());
        let mut rest = ids.into_iter();
        let mut next = rest.next();
        while next.is_some() {
            let (mut batch, mut positions) = (Vec::new(), 0);
            while let Some(ids) =
                next.take_if(|ids| batch.is_empty() || positions + ids.len() <= BATCH_POSITIONS)
            {
                positions += ids.len();
                batch.push(ids);
                next = rest.next();
            }
            let embedded = self.forward(move |model| model.embed_passages(&batch));
            vectors.extend(embedded.await?);
            self.count(positions);
        }
        let mut vectors = vectors.into_iter();
        let each = lengths.into_iter().map(|length| {
            let tokens = length?;
            // There is one vector for each text that was not too long.
            Ok(vectors
                .next()
                .map(|vector| TextEmbedding { vector, tokens }))
        });
        let lacking = || ApiError::Internal("a text has no embedding".to_owned());
        each.map(|embedding| embedding.transpose().ok_or_else(lacking))
            .collect()
    }

    /// Embeds a text as a question: the state at `[RQ]` after it.
    ///
    /// # Errors
    /// The model has no chat template, or the forward failed.
    pub(crate) async fn query(
        &self,
        text: String,
    ) -> Result<Result<TextEmbedding, NotEmbedded>, ApiError> {
        let embed = move |model: &Model| {
            if has_no_tokens(model.tokens(), &[&text])? {
                return Ok(Err(NotEmbedded::NoTokens));
            }
            let ids = match model.fitting(model.tokens().encode_query(&text))? {
                Ok(ids) => ids,
                Err(too_long) => return Ok(Err(too_long.into())),
            };
            let tokens = ids.len();
            let vector = model.embed_query_ids(ids)?;
            Ok(Ok(TextEmbedding { vector, tokens }))
        };
        let embedded = self.forward(embed).await?;
        self.count(embedded.as_ref().map_or(0, |embedded| embedded.tokens));
        Ok(embedded)
    }

    async fn forward<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Model) -> Result<T, ForwardError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let model = self.model.clone();
        let done = blocking_within(&self.one, 1, move || work(&model)).await?;
        done.map_err(|error| ApiError::Internal(error.to_string()))
    }
}

/// The longest text that is looked at for characters without tokens. A longer one has some.
const MOST_ODD_BYTES: usize = 4096;

/// Whether texts that are not all empty have no token at all, so that their embedding would be that of nothing.
///
/// # Errors
/// The tokenizer failed.
fn has_no_tokens(tokens: &Tokens, texts: &[&str]) -> Result<bool, TokensError> {
    if texts.iter().all(|text| text.is_empty()) {
        return Ok(false);
    }
    // Only control characters may be without tokens, and few texts consist of them.
    let is_odd = |text: &&str| text.len() <= MOST_ODD_BYTES && text.chars().all(char::is_control);
    if !texts.iter().all(is_odd) {
        return Ok(false);
    }
    for text in texts {
        // Some tokenizers put a space before every text.
        let ids = tokens.encode_plain(text)?.into_iter();
        let mut spelt = ids.flat_map(|id| tokens.bytes(id).unwrap_or_default());
        if spelt.any(|&byte| byte != b' ') {
            return Ok(false);
        }
    }
    Ok(true)
}
