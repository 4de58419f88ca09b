//! Whether the server lives, and whether it may be asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use onegen_proto::{CollectionCard, Health, HealthStatus, Readiness};

use crate::app::App;
use crate::collections::Collection;

/// Whether the server lives.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It lives", body = Health))
)]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health {
        status: HealthStatus::Ok,
    })
}

/// Whether model and collections are loaded and requests are taken.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "It takes requests", body = Readiness),
        (status = 503, description = "It is shutting down", body = Readiness),
    )
)]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, Json<Readiness>) {
    let (code, status) = match app.is_draining() {
        false => (StatusCode::OK, HealthStatus::Ok),
        true => (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Draining),
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
    };
    (code, Json(readiness))
}

fn card(collection: &Collection) -> CollectionCard {
    CollectionCard {
        name: collection.name().to_owned(),
        passages: collection.index().passages(),
    }
}
