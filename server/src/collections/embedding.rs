//! Embeds texts with the served model, outside of the step loop.

use std::sync::Arc;

use onegen_engine::{ForwardError, Model};
use tokio::sync::Semaphore;

use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

/// Positions that are forwarded at once, as many as in a step of the engine. Meanwhile the engine's
/// turns share the processor with them.
const BATCH_POSITIONS: usize = 512;

/// Embeds for all requests, one batch at a time, in the order in which batches are asked for. So
/// other requests get their turn between the batches of a long upload. If a client disconnects, its
/// request ends after the current batch.
pub(crate) struct Embedding {
    model: Arc<Model>,
    one: Semaphore,
}

/// A text's embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextEmbedding {
    /// The embedding, of length 1.
    pub(crate) vector: Vec<f32>,
    /// Positions that were forwarded for it, control tokens included.
    pub(crate) tokens: usize,
}

/// A text is longer than the model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it takes {needed} tokens, but the model's context holds {available}")]
pub(crate) struct TooLong {
    pub(crate) needed: usize,
    pub(crate) available: usize,
}

impl Embedding {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        let one = Semaphore::new(1);
        Self { model, one }
    }

    /// The model that embeds.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Embeds (title, text) pairs as passages: the state at `[RD]`.
    ///
    /// # Errors
    /// The tokenizer or the forward failed.
    pub(crate) async fn passages(
        &self,
        texts: Vec<(String, String)>,
    ) -> Result<Vec<Result<TextEmbedding, TooLong>>, ApiError> {
        let available = self.model.max_positions();
        let ids = self
            .on_model(move |model| {
                let each = texts.iter();
                let ids = each.map(|(title, text)| Ok(model.tokens().passage_ids(title, text)?));
                ids.collect::<Result<Vec<_>, ForwardError>>()
            })
            .await?;
        let lengths: Vec<_> = ids.iter().map(Vec::len).collect();
        let mut vectors = Vec::with_capacity(ids.len());
        let mut rest = ids.into_iter().filter(|ids| ids.len() <= available);
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
        }
        let mut vectors = vectors.into_iter();
        let each = lengths.into_iter().map(|needed| {
            // There is one vector for each text that was not too long.
            let vector = if needed <= available {
                vectors.next()
            } else {
                None
            };
            let vector = vector.ok_or(TooLong { needed, available })?;
            Ok(TextEmbedding {
                vector,
                tokens: needed,
            })
        });
        Ok(each.collect())
    }

    /// Embeds a text as a question: the state at `[RQ]` after it.
    ///
    /// # Errors
    /// The model has no chat template, or the forward failed.
    pub(crate) async fn query(
        &self,
        text: String,
    ) -> Result<Result<TextEmbedding, TooLong>, ApiError> {
        let available = self.model.max_positions();
        let embed = move |model: &Model| {
            let tokens = model.tokens().encode_query(&text)?.len();
            if tokens > available {
                return Ok(Err(TooLong {
                    needed: tokens,
                    available,
                }));
            }
            let vector = model.embed_query(&text)?;
            Ok(Ok(TextEmbedding { vector, tokens }))
        };
        self.forward(embed).await
    }

    async fn forward<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Model) -> Result<T, ForwardError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // The semaphore is never closed, so this cannot fail.
        let _one = self.one.acquire().await;
        self.on_model(work).await
    }

    async fn on_model<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Model) -> Result<T, ForwardError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let model = self.model.clone();
        let done = blocking(move || work(&model)).await?;
        done.map_err(|error| ApiError::Internal(error.to_string()))
    }
}
