//! The document that describes the API.

use utoipa::OpenApi;

use crate::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "OneGen",
        description = "One model that retrieves while it writes. OpenAI's chat API; what is ours stands under `onegen` and `retrieval`."
    ),
    paths(
        routes::chat::complete,
        routes::models::list,
        routes::health::healthz,
        routes::health::readyz,
        routes::metrics::metrics,
    ),
    tags(
        (name = "chat", description = "Conversations with the model"),
        (name = "models", description = "What is served"),
        (name = "operations", description = "For those who run it"),
    )
)]
struct Document;

/// The OpenAPI document of everything that is served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
