//! What operators ask for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_proto::Reloaded;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::routes::errors::ServerErrors;
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(reload))
}

/// Reads API keys, certificate and indexes again, as SIGHUP does. Requests go on meanwhile.
#[utoipa::path(
    post, path = "/v1/admin/reload", tag = "operations",
    responses(
        ServerErrors,
        (status = 200, description = "What is another one now, and what stayed as it was because it could not be read", body = Reloaded),
    )
)]
async fn reload(State(app): State<Arc<App>>) -> Result<Json<Reloaded>, ApiError> {
    let reloaded = blocking(move || app.reload()).await?;
    Ok(Json(reloaded))
}
