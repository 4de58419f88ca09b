//! Embeddings: the state at `[RD]` of a passage, or at `[RQ]` of a question.

use super::normalise::normalised;
use crate::error::{ForwardError, TokensError, TooLong};
use crate::model::{Model, PassageBlock, SequenceInput};
use crate::tokens::token_log::SpanKind;

/// Positions forwarded together when embedding: enough for a real matrix product, few enough to
/// keep activations small.
const BATCH_POSITIONS: usize = 2048;

/// A passage that was embedded, and what may be kept with it.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedText {
    /// [`Model::hidden_size`] numbers of length 1.
    pub embedding: Vec<f32>,
    /// The keys and values that were computed for it, as bytes that name their model and the passage's ids. `None`
    /// for a model without block attention.
    pub kv: Option<Vec<u8>>,
}

impl Model {
    /// Embeds passages: for each its state at its last token, `hidden_size` numbers of length 1.
    /// The ids come from [`crate::Tokens::passage_ids`]. Several passages are forwarded together;
    /// no KV-cache is kept ([`Model::passage_kv`] keeps what block attention can splice).
    ///
    /// # Errors
    /// A passage is empty or longer than the model's positions, or the forward failed.
    pub fn embed_passages(&self, passages: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ForwardError> {
        self.embed_each(
            passages,
            |state| state,
            |block, _| Ok(block.into_embedding()),
        )
    }

    /// Embeds passages, some at a time. `of_state` is called with each embedding, or, with block attention, `of_block`
    /// with each block and its ids.
    fn embed_each<T>(
        &self,
        passages: &[Vec<u32>],
        of_state: impl Fn(Vec<f32>) -> T,
        of_block: impl Fn(PassageBlock, &[u32]) -> Result<T, ForwardError>,
    ) -> Result<Vec<T>, ForwardError> {
        let mut embeddings = Vec::with_capacity(passages.len());
        let mut rest = passages;
        while !rest.is_empty() {
            let mut positions = 0;
            let fitting = rest
                .iter()
                .take_while(|ids| {
                    positions += ids.len();
                    positions <= BATCH_POSITIONS
                })
                .count();
            let (batch, later) = rest.split_at(fitting.max(1));
            match self.tokens().block_marks() {
                None => {
                    let states = self.states_at_end(batch, SpanKind::Passage)?;
                    embeddings.extend(states.into_iter().map(&of_state));
                }
                // With block attention a passage is embedded exactly as conversations splice it.
                Some(_) => {
                    for (block, ids) in self.passage_blocks(batch)?.into_iter().zip(batch) {
                        embeddings.push(of_block(block, ids)?);
                    }
                }
            }
            rest = later;
        }
        Ok(embeddings)
    }

    /// Embeds passages given as title and text, as [`Model::embed_passages`] does. A text that is
    /// longer than the model's positions gets its own error, and the others are embedded.
    ///
    /// # Errors
    /// The tokenizer or the forward failed.
    pub fn embed_texts(
        &self,
        passages: &[(&str, &str)],
    ) -> Result<Vec<Result<Vec<f32>, TooLong>>, ForwardError> {
        self.embed_fitting(passages, |ids| self.embed_passages(ids))
    }

    /// As [`Model::embed_texts`], with the keys and values that were computed for each passage. A
    /// [`crate::Retriever`] that gives them back saves their computation.
    ///
    /// # Errors
    /// As [`Model::embed_texts`].
    pub fn embed_texts_with_kv(
        &self,
        passages: &[(&str, &str)],
    ) -> Result<Vec<Result<EmbeddedText, TooLong>>, ForwardError> {
        let made_by = self.kv_fingerprint();
        let embed = |ids: &[Vec<u32>]| {
            self.embed_each(
                ids,
                |embedding| EmbeddedText {
                    embedding,
                    kv: None,
                },
                |block, ids| block.to_kept(&made_by, ids),
            )
        };
        self.embed_fitting(passages, embed)
    }

    /// Encodes texts and calls `embed` with the ids of those that fit. The others get an error each.
    fn embed_fitting<T>(
        &self,
        passages: &[(&str, &str)],
        embed: impl Fn(&[Vec<u32>]) -> Result<Vec<T>, ForwardError>,
    ) -> Result<Vec<Result<T, TooLong>>, ForwardError> {
        let (mut fitting, mut each) = (Vec::new(), Vec::new());
        for (title, text) in passages {
            each.push(
                match self.fitting(self.tokens().passage_ids(title, text))? {
                    Ok(ids) => {
                        fitting.push(ids);
                        Ok(())
                    }
                    Err(too_long) => Err(too_long),
                },
            );
        }
        let mut embeddings = embed(&fitting)?.into_iter();
        // There is one embedding for each passage that fits.
        let lacking = || ForwardError::Input("no state for a passage".into());
        each.into_iter()
            .map(|fits| match fits {
                Ok(()) => embeddings.next().ok_or_else(lacking).map(Ok),
                Err(too_long) => Ok(Err(too_long)),
            })
            .collect()
    }

    /// The ids of a text, unless they are more than the model's positions.
    ///
    /// # Errors
    /// The text could not be encoded for another reason.
    pub fn fitting(
        &self,
        ids: Result<Vec<u32>, TokensError>,
    ) -> Result<Result<Vec<u32>, TooLong>, TokensError> {
        let available = self.max_positions();
        let too_long = |needed| TooLong { needed, available };
        match ids {
            Ok(ids) if ids.len() <= available => Ok(Ok(ids)),
            Ok(ids) => Ok(Err(too_long(ids.len()))),
            Err(TokensError::TooLong { needed, .. }) => Ok(Err(too_long(needed))),
            Err(error) => Err(error),
        }
    }

    /// Embeds a question on its own: the state at `[RQ]` right after it, `hidden_size` numbers of
    /// length 1. For searching without a conversation.
    ///
    /// # Errors
    /// The model has no chat template, the question is longer than the model's positions, or the
    /// forward failed.
    pub fn embed_query(&self, text: &str) -> Result<Vec<f32>, ForwardError> {
        self.embed_query_ids(self.tokens().encode_query(text)?)
    }

    /// [`Model::embed_query`] for the ids of [`crate::Tokens::encode_query`].
    ///
    /// # Errors
    /// They are more than the model's positions, or the forward failed.
    pub fn embed_query_ids(&self, ids: Vec<u32>) -> Result<Vec<f32>, ForwardError> {
        let mut states = self.states_at_end(&[ids], SpanKind::Prompt)?;
        states
            .pop()
            .ok_or_else(|| ForwardError::Input("no state for the question".into()))
    }

    fn states_at_end(
        &self,
        texts: &[Vec<u32>],
        kind: SpanKind,
    ) -> Result<Vec<Vec<f32>>, ForwardError> {
        let mut caches: Vec<_> = texts.iter().map(|_| self.new_cache()).collect();
        let kinds: Vec<_> = texts.iter().map(|ids| vec![kind; ids.len()]).collect();
        let ends: Vec<_> = texts
            .iter()
            .map(|ids| [ids.len().saturating_sub(1)])
            .collect();
        let mut batch: Vec<_> = texts
            .iter()
            .zip(&mut caches)
            .zip(kinds.iter().zip(&ends))
            .map(|((ids, cache), (kinds, end))| SequenceInput {
                ids,
                kinds,
                cache,
                hidden_at: end,
                logits_at: &[],
            })
            .collect();
        let outputs = self.forward(&mut batch)?;
        Ok(outputs
            .into_iter()
            .flat_map(|output| output.hidden)
            .map(normalised)
            .collect())
    }
}
