//! The router: all routes, and the layers before them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, OriginalUri};
use axum::http::{HeaderName, HeaderValue, Method, Request};
use axum::middleware::{from_fn, from_fn_with_state, map_request};
use axum::routing::get;
use axum::{Json, Router};
use tower_http::cors::{AllowHeaders, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, Span, field};

use crate::admission::{ClientAddress, access, client_address, limits, origins};
use crate::app::App;
use crate::metrics::count as count_response;
use crate::recordings::answer_once;
use crate::serving::early_answers::read_before_early_answer;
use crate::serving::openapi::{documented_routes, openapi};
use crate::serving::{docs, page};
use crate::traces;
use crate::wire::errors::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole server as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (routes, _) = documented_routes().split_for_parts();
    let traced = app.traces.clone();
    let traced = traced.map(|traces| from_fn_with_state(traces, traces::trace));
    routes
        .route("/openapi.json", get(|| async { Json(openapi()) }))
        .merge(page::routes())
        .merge(docs::routes())
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(
            (app.answers.clone(), app.bounds.body_limit()),
            answer_once,
        ))
        .layer(DefaultBodyLimit::max(app.bounds.body_limit().bytes))
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(from_fn_with_state(app.limits.clone(), limits::count))
        .layer(tower::util::option_layer(traced))
        .layer(from_fn_with_state(app.access.clone(), access::admit))
        .layer(from_fn_with_state(app.origins.clone(), origins::check))
        .layer(tower::util::option_layer(cors(&app.cors_origins)))
        .layer(from_fn(read_before_early_answer))
        .layer(from_fn_with_state(app.metrics.clone(), count_response))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(request_span)
                .on_response(DefaultOnResponse::new().level(Level::INFO)),
        )
        .layer(from_fn_with_state(
            app.proxies.clone(),
            client_address::find,
        ))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(map_request(without_odd_id))
        .with_state(app)
}

/// The CORS layer for the allowed origins; `None` if no origin is allowed.
fn cors(origins: &[HeaderValue]) -> Option<CorsLayer> {
    // `*` as allowed headers does not include `Authorization`, so those that are asked for are named.
    let all = CorsLayer::permissive().allow_headers(AllowHeaders::mirror_request());
    if origins.iter().any(|origin| origin == "none") {
        return None;
    }
    if origins.iter().any(|origin| origin == "*") {
        Some(all)
    } else {
        Some(all.allow_origin(origins.to_vec()))
    }
}

/// The most characters of a client's request id.
const MAX_ID: usize = 128;

/// Takes off a request id that could be read as more than an id in a line of the log.
async fn without_odd_id(mut request: Request<Body>) -> Request<Body> {
    let id = request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    if id.is_some_and(|id| id.len() > MAX_ID || !id.iter().all(plain)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// The log has neither bodies nor queries, because they may contain users' texts.
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
