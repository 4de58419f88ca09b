//! Whether the server lives, and whether it may be asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use onegen_proto::{CollectionCard, Health, HealthStatus, Readiness};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::collections::Collection;
use crate::wire::blocking::blocking;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

/// Whether the server lives.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It lives", body = Health))
)]
async fn healthz() -> Json<Health> {
    Json(Health {
        status: HealthStatus::Ok,
    })
}

/// Whether model and collections are loaded and requests are taken.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "It takes requests", body = Readiness),
        (status = 503, description = "It is shutting down, or its disk takes no files", body = Readiness),
    )
)]
async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, Json<Readiness>) {
    let writable = {
        let app = app.clone();
        // A probe that panics has written nothing.
        blocking(move || app.conversations.is_writable())
            .await
            .unwrap_or(false)
    };
    let (code, status) = if app.shutdown.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Draining)
    } else if !writable {
        (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Unwritable)
    } else {
        (StatusCode::OK, HealthStatus::Ok)
    };
    let readiness = Readiness {
        status,
        model: app.model.name.clone(),
        passages: app.collections.passages(),
        collections: match app.access.asks_for_keys() {
            // Which collections there are is for those who may search them.
            true => Vec::new(),
            false => app.collections.iter().map(card).collect(),
        },
        indexing: None,
    };
    (code, Json(readiness))
}

fn card(collection: &Collection) -> CollectionCard {
    CollectionCard {
        name: collection.name().to_owned(),
        passages: collection.store().passages(),
    }
}
