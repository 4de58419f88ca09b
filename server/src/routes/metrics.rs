//! Prometheus' view.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use prometheus::TEXT_FORMAT;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::conversations::shared_store::SharedStore;
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "All metrics", body = String, content_type = "text/plain"),
    )
)]
async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let conversations = app.conversations.clone();
    let writable = blocking(move || conversations.is_writable()).await?;
    let text = app
        .metrics
        .render(
            &app.engine,
            writable,
            app.embedding.forwarded(),
            &app.collections.remote_stats(),
            app.conversations.shared_store().map(SharedStore::stats),
        )
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, TEXT_FORMAT)], text))
}
