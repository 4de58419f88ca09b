//! Which path leads where, and what stands before all of them.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, OriginalUri};
use axum::http::{HeaderName, HeaderValue, Method, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use tower_http::cors::CorsLayer;
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, Span, field};

use crate::access;
use crate::app::App;
use crate::client_address::{self, ClientAddress};
use crate::docs;
use crate::errors::ApiError;
use crate::limits;
use crate::metrics::count as count_response;
use crate::openapi::openapi;
use crate::page;
use crate::routes::{
    admin, chat, completions, conversations, documents, embeddings, entities, health, metrics,
    models, responses, stream, vector_stores,
};
use crate::traces;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole server as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/conversations", post(conversations::create))
        .route(
            "/v1/conversations/{id}",
            get(conversations::get)
                .post(conversations::update)
                .delete(conversations::delete),
        )
        .route(
            "/v1/conversations/{id}/items",
            get(conversations::list_items).post(conversations::create_items),
        )
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(conversations::get_item),
        )
        .route("/v1/conversations/{id}/fork", post(conversations::fork))
        .route(
            "/v1/conversations/{id}/rebuild",
            post(conversations::rebuild),
        )
        .route(
            "/v1/documents",
            put(documents::upsert).post(documents::upsert),
        )
        .route(
            "/v1/documents/{id}",
            get(documents::get).delete(documents::delete),
        )
        .route("/v1/vector_stores/{id}/search", post(vector_stores::search))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::create))
        .route(
            "/v1/responses/{id}",
            get(responses::get).delete(responses::delete),
        )
        .route(
            "/v1/responses/{id}/input_items",
            get(responses::list_input_items),
        )
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/entities/link", post(entities::link))
        .route("/v1/stream", get(stream::resume).delete(stream::stop))
        .route("/v1/models", get(models::list))
        .route("/v1/admin/reload", post(admin::reload))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(|| async { Json(openapi()) }))
        .merge(page::routes())
        .merge(docs::routes())
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(app.limits.body_bytes()))
        .layer(from_fn_with_state(app.clone(), limits::count))
        .layer(from_fn_with_state(app.clone(), traces::trace))
        .layer(from_fn_with_state(app.clone(), access::admit))
        .layer(tower::util::option_layer(cors(&app.cors_origins)))
        .layer(from_fn_with_state(app.clone(), count_response))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(request_span)
                .on_response(DefaultOnResponse::new().level(Level::INFO)),
        )
        .layer(from_fn_with_state(app.clone(), client_address::find))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .with_state(app)
}

/// Which pages' scripts may ask; none where no layer answers a browser's question.
fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    let all = CorsLayer::permissive();
    if origins.iter().any(|origin| origin == "none") {
        return None;
    }
    match origins.iter().any(|origin| origin == "*") {
        true => Some(all),
        false => Some(all.allow_origin(origins.to_vec())),
    }
}

/// Neither bodies nor queries: texts are not for the log.
fn request_span<B>(request: &Request<B>) -> Span {
    let id = request.extensions().get::<RequestId>();
    let id = id.and_then(|id| id.header_value().to_str().ok());
    let client = request.extensions().get::<ClientAddress>();
    let client = client.map(|ClientAddress(address)| address);
    tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        id = id.map(field::display),
        client = client.map(field::display),
        key = field::Empty,
        trace = field::Empty,
    )
}

async fn route_not_found(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::RouteNotFound {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::MethodNotAllowed {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}
