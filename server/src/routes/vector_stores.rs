//! OpenAI's vector stores, as far as they are searched: each collection is one.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_index::{Hit, IndexError, SearchOptions};
use onegen_proto::{
    ErrorEnvelope, SearchResultExtension, VectorStoreContent, VectorStoreSearchPage,
    VectorStoreSearchRequest, VectorStoreSearchResult,
};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::collections::search::SearchFields;
use crate::routes::errors::BodyErrors;
use crate::wire::blocking::blocking;
use crate::wire::citations::linkable;
use crate::wire::errors::ApiError;
use crate::wire::extract::PathParam;
use crate::wire::json::{JsonBody, typed};

/// OpenAI's.
const DEFAULT_RESULTS: usize = 10;
const MAX_QUERIES: usize = 32;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(search))
}

/// Searches a collection, by its name, for passages. Each query is embedded as a question is: the
/// state at `[RQ]` after it.
#[utoipa::path(
    post, path = "/v1/vector_stores/{id}/search", tag = "documents",
    params(("id" = String, Path, description = "The collection's name", example = "default")),
    request_body = VectorStoreSearchRequest,
    responses(
        BodyErrors,
        (status = 200, description = "What was found", body = VectorStoreSearchPage),
        (status = 404, description = "There is no such collection", body = ErrorEnvelope),
    )
)]
async fn search(
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
    let filters = request.filters.as_ref();
    let options = SearchFields::VECTOR_STORE.options(k, filters, ranking.score_threshold)?;
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
        filename: if passage.title.is_empty() {
            file_id.clone()
        } else {
            passage.title
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
            url: linkable(passage.url),
        },
    }
}
