//! Where engine and index meet.

use std::sync::Arc;

use onegen_engine::{Passage, RetrieveError, Retriever};
use onegen_index::{Index, SearchOptions};

/// Answers the engine's query embeddings from an index.
pub(crate) struct IndexRetriever {
    index: Arc<Index>,
}

impl IndexRetriever {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self { index }
    }
}

impl Retriever for IndexRetriever {
    fn retrieve(&self, query_embedding: &[f32], k: usize) -> Result<Vec<Passage>, RetrieveError> {
        let hits = self
            .index
            .search(query_embedding, &SearchOptions::new(k))
            .map_err(RetrieveError::new)?;
        Ok(hits
            .into_iter()
            .map(|hit| Passage {
                id: hit.passage.id,
                title: hit.passage.title,
                text: hit.passage.text,
                url: hit.passage.url,
                score: hit.score,
            })
            .collect())
    }
}
