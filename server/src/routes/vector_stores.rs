//! OpenAI's vector stores, as far as they are searched: each collection is one.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_index::{Filter, Hit, IndexError, SearchOptions};
use onegen_proto::{
    ErrorEnvelope, SearchResultExtension, VectorStoreContent, VectorStoreSearchPage,
    VectorStoreSearchRequest, VectorStoreSearchResult,
};
use serde_json::Value;

use crate::access::Caller;
use crate::app::App;
use crate::blocking::blocking;
use crate::errors::ApiError;
use crate::extract::PathParam;
use crate::json::{JsonBody, typed};

/// OpenAI's.
const DEFAULT_RESULTS: usize = 10;
/// OpenAI's.
const MAX_RESULTS: usize = 50;
const MAX_QUERIES: usize = 32;

/// Searches a collection, by its name, for passages. Each query is embedded as a question is: the
/// state at `[RQ]` after it.
#[utoipa::path(
    post, path = "/v1/vector_stores/{id}/search", tag = "documents",
    params(("id" = String, Path, description = "The collection's name", example = "default")),
    request_body = VectorStoreSearchRequest,
    responses(
        (status = 200, description = "What was found", body = VectorStoreSearchPage),
        (status = 400, description = "The request makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such collection", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn search(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    JsonBody(body): JsonBody,
) -> Result<Json<VectorStoreSearchPage>, ApiError> {
    let collection = app
        .collections
        .get(Some(&id), &caller, "vector_store_id")?
        .clone();
    let (queries, options) = validate(body)?;
    let mut vectors = Vec::with_capacity(queries.len());
    for query in &queries {
        let embedded = app.embedding.query(query.clone()).await?;
        let embedded =
            embedded.map_err(|too_long| ApiError::invalid("query", too_long.to_string()))?;
        vectors.push(embedded.vector);
    }
    let search = move || {
        let index = collection.index();
        let each = vectors.iter().map(|vector| index.search(vector, &options));
        let hits = each.collect::<Result<Vec<_>, _>>()?;
        Ok(together(hits, options.k))
    };
    let hits: Result<_, IndexError> = blocking(search).await?;
    let hits = hits.map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(Json(VectorStoreSearchPage {
        object: "vector_store.search_results.page".to_owned(),
        search_query: queries,
        data: hits.into_iter().map(result).collect(),
        has_more: false,
        next_page: None,
    }))
}

fn validate(body: Value) -> Result<(Vec<String>, SearchOptions), ApiError> {
    let request: VectorStoreSearchRequest = typed(body)?;
    let unsupported = |param: &str| {
        Err(ApiError::Unsupported {
            param: param.to_owned(),
        })
    };
    if request.rewrite_query == Some(true) {
        return unsupported("rewrite_query");
    }
    let ranking = request.ranking_options.unwrap_or_default();
    if let Some(ranker) = ranking
        .ranker
        .filter(|ranker| !matches!(&**ranker, "auto" | "none"))
    {
        return unsupported(&format!("ranking_options.ranker {ranker:?}"));
    }
    let queries = request.query.into_vec();
    if !(1..=MAX_QUERIES).contains(&queries.len()) {
        let found = queries.len();
        let message = format!("holds {found} queries, but must hold 1 to {MAX_QUERIES}");
        return Err(ApiError::invalid("query", message));
    }
    if queries.iter().any(|query| query.trim().is_empty()) {
        return Err(ApiError::invalid(
            "query",
            "must hold something to be searched for",
        ));
    }
    let k = request.max_num_results.unwrap_or(DEFAULT_RESULTS);
    if !(1..=MAX_RESULTS).contains(&k) {
        let message = format!("is {k}, but must be between 1 and {MAX_RESULTS}");
        return Err(ApiError::invalid("max_num_results", message));
    }
    let min_score = ranking.score_threshold;
    if let Some(score) = min_score.filter(|score| !(-1.0..=1.0).contains(score)) {
        let message = format!("is {score}, but must be between -1 and 1");
        return Err(ApiError::invalid(
            "ranking_options.score_threshold",
            message,
        ));
    }
    let filter = request.filters.as_ref().map(Filter::from_json).transpose();
    let filter = filter.map_err(|error| {
        let path = error.at.strip_prefix("filter").unwrap_or(&error.at);
        ApiError::invalid(format!("filters{path}"), error.reason.to_string())
    })?;
    let options = SearchOptions {
        filter,
        min_score,
        ..SearchOptions::new(k)
    };
    Ok((queries, options))
}

/// The best `k` passages of several searches, each once with its best score.
fn together(mut searches: Vec<Vec<Hit>>, k: usize) -> Vec<Hit> {
    if searches.len() == 1 {
        return searches.remove(0);
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut hits: Vec<Hit> = Vec::new();
    for hit in searches.into_iter().flatten() {
        match places.get(&hit.passage.id).map(|&place| &mut hits[place]) {
            Some(before) if before.score < hit.score => *before = hit,
            Some(_) => {}
            None => {
                places.insert(hit.passage.id.clone(), hits.len());
                hits.push(hit);
            }
        }
    }
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    hits.truncate(k);
    hits
}

fn result(hit: Hit) -> VectorStoreSearchResult {
    let Hit { score, passage, .. } = hit;
    let file_id = passage.document_id().to_owned();
    VectorStoreSearchResult {
        filename: match passage.title.is_empty() {
            true => file_id.clone(),
            false => passage.title,
        },
        file_id,
        score,
        attributes: passage.metadata,
        content: vec![VectorStoreContent {
            kind: "text".to_owned(),
            text: passage.text,
        }],
        onegen: SearchResultExtension {
            passage: passage.id,
            url: passage.url,
        },
    }
}
