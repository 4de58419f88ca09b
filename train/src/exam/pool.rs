//! The passages of a set with their embeddings, and the retriever that searches them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use onegen_engine::{Model, Passage, RetrieveError, Retriever};

/// How many of the nearest passages are ranked.
pub const DEEPEST: usize = 20;

/// Passages that are embedded together. Progress is reported between two batches.
const BATCH: usize = 64;

/// Passages and their embeddings.
pub struct Pool {
    passages: Vec<Passage>,
    /// `None` for a passage that is longer than the model's positions, which is never found.
    embeddings: Vec<Option<Vec<f32>>>,
}

impl Pool {
    /// Embeds passages with a model and calls `on_progress` with the number done.
    ///
    /// # Errors
    /// The tokenizer or the forward failed.
    pub fn embed(
        model: &Model,
        passages: &[Passage],
        mut on_progress: impl FnMut(usize),
    ) -> Result<Self> {
        // Passages of similar length share a batch, so that short ones do not wait for a long one.
        let mut order: Vec<usize> = (0..passages.len()).collect();
        order.sort_by_key(|at| passages[*at].text.len());
        let mut embeddings = vec![None; passages.len()];
        for (number, chunk) in order.chunks(BATCH).enumerate() {
            on_progress(number * BATCH);
            let texts: Vec<_> = chunk
                .iter()
                .map(|at| (passages[*at].title.as_str(), passages[*at].text.as_str()))
                .collect();
            let embedded = model.embed_texts(&texts);
            let embedded = embedded.context("the passages cannot be embedded")?;
            for (at, embedding) in chunk.iter().zip(embedded) {
                embeddings[*at] = embedding.ok();
            }
        }
        Ok(Self {
            passages: passages.to_vec(),
            embeddings,
        })
    }

    /// How many passages are too long for the model.
    pub fn too_long(&self) -> usize {
        self.embeddings.iter().filter(|one| one.is_none()).count()
    }

    /// The `k` nearest passages with their cosines, the nearest first, by an exact search.
    pub fn nearest(&self, query: &[f32], k: usize) -> Vec<(usize, f32)> {
        nearest(&self.embeddings, query, k)
    }
}

/// The `k` rows that are nearest to a query, with their scalar products, the nearest first. Rows with equal
/// products stay in order. Rows that are `None` are never found.
pub fn nearest<T: AsRef<[f32]>>(rows: &[Option<T>], query: &[f32], k: usize) -> Vec<(usize, f32)> {
    let score = |row: &T| -> f32 { row.as_ref().iter().zip(query).map(|(a, b)| a * b).sum() };
    let known = rows.iter().enumerate();
    let known = known.filter_map(|(at, row)| Some((at, score(row.as_ref()?))));
    let mut scores: Vec<_> = known.collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    scores.truncate(k);
    scores
}

/// Which of these passages of a pool is the nearest to a query.
pub fn nearest_row(
    pool: &Pool,
    query: &[f32],
    among: impl Iterator<Item = usize>,
) -> Option<usize> {
    let score = |at: usize| {
        let row = pool.embeddings[at].as_ref()?;
        Some(row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>())
    };
    let scores = among.filter_map(|at| Some((at, score(at)?)));
    scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// A retriever for one turn, which records its searches.
pub struct Search {
    pool: Arc<Pool>,
    /// The passages that are returned one after another, whatever the query is. With `None` the pool
    /// is searched.
    given: Option<Vec<usize>>,
    log: Mutex<SearchLog>,
}

/// The searches of a turn.
#[derive(Debug, Clone, Default)]
pub struct SearchLog {
    /// For each query the pool's nearest passages, up to [`DEEPEST`], also if other passages were
    /// returned.
    pub rankings: Vec<Vec<usize>>,
    /// For each query the passage that was returned; `None` if the given passages were used up.
    pub read: Vec<Option<usize>>,
}

impl Search {
    /// A retriever over the pool, or one that returns the given passages.
    pub fn new(pool: Arc<Pool>, given: Option<Vec<usize>>) -> Self {
        Self {
            pool,
            given,
            log: Mutex::default(),
        }
    }

    /// The searches so far.
    pub fn log(&self) -> SearchLog {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}

impl Retriever for Search {
    fn retrieve(&self, query: &[f32], _: usize) -> Result<Vec<Passage>, RetrieveError> {
        let near = self.pool.nearest(query, DEEPEST);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &self.given {
            None => near.first().copied(),
            Some(given) => given.get(log.read.len()).map(|at| (*at, 1.0)),
        };
        log.rankings
            .push(near.into_iter().map(|(at, _)| at).collect());
        log.read.push(found.map(|(at, _)| at));
        let passage = |(at, score): (usize, f32)| Passage {
            score,
            ..self.pool.passages[at].clone()
        };
        Ok(found.map(passage).into_iter().collect())
    }
}
