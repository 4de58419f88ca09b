//! The search options of all kinds of requests, checked in one place.

use onegen_index::{Filter, SearchOptions};
use serde_json::Value;

use crate::wire::errors::ApiError;

/// The names of the search options in a kind of request, and the most passages that it may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SearchFields {
    k: &'static str,
    max_k: usize,
    filter: &'static str,
    min_score: &'static str,
}

impl SearchFields {
    /// The fields of a request that is a search.
    pub(crate) const OWN: Self = Self {
        k: "k",
        max_k: 100,
        filter: "filter",
        min_score: "min_score",
    };
    /// The fields of a request's `retrieval`. Nobody could read a receipt of more than 100 passages.
    pub(crate) const RETRIEVAL: Self = Self {
        k: "retrieval.k",
        max_k: 100,
        filter: "retrieval.filter",
        min_score: "retrieval.min_score",
    };
    /// OpenAI's names and limit.
    pub(crate) const VECTOR_STORE: Self = Self {
        k: "max_num_results",
        max_k: 50,
        filter: "filters",
        min_score: "ranking_options.score_threshold",
    };

    /// The options of a search.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] names the field at fault.
    pub(crate) fn options(
        &self,
        k: usize,
        filter: Option<&Value>,
        min_score: Option<f32>,
    ) -> Result<SearchOptions, ApiError> {
        if !(1..=self.max_k).contains(&k) {
            let message = format!("is {k}, but must be between 1 and {}", self.max_k);
            return Err(ApiError::invalid(self.k, message));
        }
        if let Some(score) = min_score.filter(|score| !(-1.0..=1.0).contains(score)) {
            let message = format!("is {score}, but must be between -1 and 1");
            return Err(ApiError::invalid(self.min_score, message));
        }
        let filter = filter.map(Filter::from_json).transpose();
        let filter = filter.map_err(|error| {
            let path = error.at.strip_prefix("filter").unwrap_or(&error.at);
            ApiError::invalid(format!("{}{path}", self.filter), error.reason.to_string())
        })?;
        Ok(SearchOptions {
            filter,
            min_score,
            ..SearchOptions::new(k)
        })
    }
}
