//! The engine's model as an index sees it: it embeds passages, and its fingerprints name their vectors.

use onegen_engine::{ForwardError, Model};

use crate::fingerprints::Fingerprints;
use crate::ingest::{EmbeddedText, Embedder};

impl From<&Model> for Fingerprints {
    fn from(model: &Model) -> Self {
        let fingerprints = model.fingerprints();
        Self {
            name: model.name().to_owned(),
            model: fingerprints.model.clone(),
            tokenizer: fingerprints.tokenizer.clone(),
            template: fingerprints.template.clone(),
        }
    }
}

impl Embedder for Model {
    type Error = ForwardError;

    fn count_tokens(&self, text: &str) -> usize {
        self.tokens().count(text)
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, ForwardError> {
        let embedded = self.embed_texts(texts)?.into_iter();
        Ok(embedded
            .map(|vector| vector.map_err(|error| error.to_string()))
            .collect())
    }

    fn embed_with_kv(
        &self,
        texts: &[(&str, &str)],
    ) -> Result<Vec<Result<EmbeddedText, String>>, ForwardError> {
        let embedded = self.embed_texts_with_kv(texts)?.into_iter();
        Ok(embedded
            .map(|text| match text {
                Ok(text) => Ok((text.embedding, text.kv)),
                Err(error) => Err(error.to_string()),
            })
            .collect())
    }
}
