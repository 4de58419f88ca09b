//! What operators ask for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_proto::{ErrorEnvelope, Reloaded};

use crate::app::App;
use crate::blocking::blocking;
use crate::errors::ApiError;

/// Reads API keys, certificate and indexes again, as SIGHUP does. Requests go on meanwhile.
#[utoipa::path(
    post, path = "/v1/admin/reload", tag = "operations",
    responses(
        (status = 200, description = "What is another one now, and what stayed as it was because it could not be read", body = Reloaded),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn reload(State(app): State<Arc<App>>) -> Result<Json<Reloaded>, ApiError> {
    let reloaded = blocking(move || app.reload()).await?;
    Ok(Json(reloaded))
}
