//! OpenAI's vector stores, as far as they are looked at and searched: each collection is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_index::{Hit, IndexError, SearchOptions, Store};
use onegen_proto::{
    ErrorEnvelope, FileCounts, ListVectorStores, SearchQuery, SearchResultExtension, VectorStore,
    VectorStoreContent, VectorStoreList, VectorStoreSearchPage, VectorStoreSearchRequest,
    VectorStoreSearchResult,
};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::collections::Collection;
use crate::collections::search::SearchFields;
use crate::routes::errors::{BodyErrors, ServerErrors};
use crate::wire::blocking::blocking;
use crate::wire::citations::linkable;
use crate::wire::errors::ApiError;
use crate::wire::extract::{PathParam, QueryParams};
use crate::wire::json::{JsonBody, typed};
use crate::wire::page::{Page, PageQuery};

/// OpenAI's.
const DEFAULT_RESULTS: usize = 10;
const MAX_QUERIES: usize = 32;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(search))
}

/// The collections that the caller may see.
#[utoipa::path(
    get, path = "/v1/vector_stores", tag = "documents",
    params(ListVectorStores),
    responses(
        ServerErrors,
        (status = 200, description = "Some of them", body = VectorStoreList),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such collection to list on from", body = ErrorEnvelope),
    )
)]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<VectorStoreList>, ApiError> {
    let page = PageQuery::new(query)?;
    let seen = move || {
        let seen = app.collections.iter().filter(|c| caller.sees(c.name()));
        seen.map(vector_store).collect()
    };
    let seen: Vec<_> = blocking(seen).await?;
    let Page { entries, has_more } = page.cut(seen, |store: &VectorStore| &store.id)?;
    let id = |store: &VectorStore| store.id.clone();
    Ok(Json(VectorStoreList {
        object: "list".to_owned(),
        first_id: entries.first().map(id),
        last_id: entries.last().map(id),
        data: entries,
        has_more,
    }))
}

/// A collection, by its name.
#[utoipa::path(
    get, path = "/v1/vector_stores/{id}", tag = "documents",
    params(("id" = String, Path, description = "The collection's name", example = "default")),
    responses(
        ServerErrors,
        (status = 200, description = "The collection", body = VectorStore),
        (status = 404, description = "There is no such collection", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<VectorStore>, ApiError> {
    let collection = app.collections.get(Some(&id), &caller, "vector_store_id")?;
    let collection = collection.clone();
    blocking(move || vector_store(&collection)).await.map(Json)
}

fn vector_store(collection: &Collection) -> VectorStore {
    let store = collection.store();
    let (created, bytes) = match &*store {
        Store::Directory(index) => {
            let created = index.manifest().created_unix_seconds;
            (created, index.stats().bytes)
        }
        Store::Remote(remote) => {
            let bytes = remote.bytes().unwrap_or_else(|error| {
                tracing::warn!(%error, "the size of a collection is not known");
                None
            });
            (remote.created_unix_seconds(), bytes.unwrap_or_default())
        }
    };
    let passages = store.passages();
    VectorStore {
        id: collection.name().to_owned(),
        object: "vector_store".to_owned(),
        created_at: created,
        name: collection.name().to_owned(),
        usage_bytes: bytes,
        file_counts: FileCounts {
            completed: passages,
            total: passages,
            ..FileCounts::default()
        },
        status: "completed".to_owned(),
        expires_after: None,
        expires_at: None,
        last_active_at: Some(created),
        metadata: BTreeMap::new(),
    }
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
    let (queries, alone, options) = validate(body)?;
    let mut vectors = Vec::with_capacity(queries.len());
    for (at, query) in queries.iter().enumerate() {
        let embedded = app.embedding.query(query.clone()).await?;
        let embedded = embedded
            .map_err(|too_long| ApiError::invalid(query_at(alone, at), too_long.to_string()))?;
        vectors.push(embedded.vector);
    }
    let search = move || {
        let store = collection.store();
        let mut best = Vec::new();
        for vector in &vectors {
            best = together(best, store.search(vector, &options)?, options.k);
        }
        Ok(best)
    };
    let hits: Result<_, IndexError> = blocking(search).await?;
    let hits = hits?;
    Ok(Json(VectorStoreSearchPage {
        object: "vector_store.search_results.page".to_owned(),
        search_query: queries,
        data: hits.into_iter().map(result).collect(),
        has_more: false,
        next_page: None,
    }))
}

/// The name of a query of a request.
fn query_at(alone: bool, at: usize) -> String {
    match alone {
        true => "query".to_owned(),
        false => format!("query[{at}]"),
    }
}

/// The queries, whether there is one outside of a list, and how they are searched for.
fn validate(body: Value) -> Result<(Vec<String>, bool, SearchOptions), ApiError> {
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
    let alone = matches!(request.query, SearchQuery::One(_));
    let queries = request.query.into_vec();
    if !(1..=MAX_QUERIES).contains(&queries.len()) {
        let found = queries.len();
        let message = format!("holds {found} queries, but must hold 1 to {MAX_QUERIES}");
        return Err(ApiError::invalid("query", message));
    }
    if let Some(at) = queries.iter().position(|query| query.trim().is_empty()) {
        let message = "must hold something to be searched for";
        return Err(ApiError::invalid(query_at(alone, at), message));
    }
    let k = request.max_num_results.unwrap_or(DEFAULT_RESULTS);
    let filters = request.filters.as_ref();
    let options = SearchFields::VECTOR_STORE.options(k, filters, ranking.score_threshold)?;
    Ok((queries, alone, options))
}

/// The best `k` passages of earlier searches and of one more, each once with its best score. Passages may be
/// large, so no more than these are kept from one search to the next.
fn together(mut hits: Vec<Hit>, more: Vec<Hit>, k: usize) -> Vec<Hit> {
    let place = |hit: (usize, &Hit)| (hit.1.passage.id.clone(), hit.0);
    let places: HashMap<String, usize> = hits.iter().enumerate().map(place).collect();
    for hit in more {
        match places.get(&hit.passage.id).map(|&place| &mut hits[place]) {
            Some(before) if before.score < hit.score => *before = hit,
            Some(_) => {}
            None => hits.push(hit),
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
