//! Embeddings: the state at `[RD]` of a passage, or at `[RQ]` of a question.

use super::normalise::normalised;
use crate::error::{ForwardError, TokensError, TooLong};
use crate::model::{Model, PassageBlock, SequenceInput};
use crate::tokens::token_log::SpanKind;

/// Positions forwarded together when embedding: enough for a real matrix product, few enough to
/// keep activations small.
const BATCH_POSITIONS: usize = 2048;

impl Model {
    /// Embeds passages: for each its state at its last token, `hidden_size` numbers of length 1.
    /// The ids come from [`crate::Tokens::passage_ids`]. Several passages are forwarded together;
    /// no KV-cache is kept ([`Model::passage_kv`] keeps what block attention can splice).
    ///
    /// # Errors
    /// A passage is empty or longer than the model's positions, or the forward failed.
    pub fn embed_passages(&self, passages: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ForwardError> {
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
                None => embeddings.extend(self.states_at_end(batch, SpanKind::Passage)?),
                // With block attention a passage is embedded exactly as conversations splice it.
                Some(_) => {
                    let passages = self.passage_blocks(batch)?.into_iter();
                    embeddings.extend(passages.map(PassageBlock::into_embedding));
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
        let mut embeddings = self.embed_passages(&fitting)?.into_iter();
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
