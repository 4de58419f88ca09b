//! Counts responses by route and status.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use crate::metrics::Metrics;
use crate::wire::errors::ErrorCode;

/// Counts the response to a request, when it begins.
pub(crate) async fn count(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    // The label is never the path itself, because every client could then create new time series.
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let http = &metrics.http;
    let status = response.status();
    let labels = [route, method, status.as_str()];
    http.http_responses_total.with_label_values(&labels).inc();
    if let Some(ErrorCode(code)) = response.extensions().get() {
        http.request_errors_total.with_label_values(&[code]).inc();
    }
    response
}

/// A method that the server knows, or `other`. Clients can invent methods, and each would be a new time
/// series.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
