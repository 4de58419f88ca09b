//! The routes, one module for each noun, and what several of them share.

mod admin;
mod chat;
mod completions;
mod conversations;
mod delivery;
mod documents;
mod embeddings;
mod entities;
mod errors;
mod health;
mod heartbeat;
mod metrics;
mod models;
mod responses;
mod sampling;
mod sse;
mod stream;
mod usage;
mod vector_stores;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// All routes of the API, each with its part of the OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(chat::routes())
        .merge(conversations::routes())
        .merge(documents::routes())
        .merge(vector_stores::routes())
        .merge(embeddings::routes())
        .merge(entities::routes())
        .merge(completions::routes())
        .merge(responses::routes())
        .merge(stream::routes())
        .merge(models::routes())
        .merge(admin::routes())
        .merge(health::routes())
        .merge(metrics::routes())
}
