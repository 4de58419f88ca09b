//! What is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_proto::{ErrorEnvelope, ModelCard, ModelList, ModelListObject, ModelObject};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::wire::errors::ApiError;
use crate::wire::extract::PathParam;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
}

/// The models that are served: exactly one.
#[utoipa::path(
    get, path = "/v1/models", tag = "models",
    responses(
        (status = 200, description = "The served model", body = ModelList),
    )
)]
async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList {
        object: ModelListObject::List,
        data: vec![card(&app)],
    })
}

/// The served model, by any of its names. A name may hold slashes, percent-encoded or not.
#[utoipa::path(
    get, path = "/v1/models/{*model}", tag = "models",
    params(("model" = String, Path, description = "The model's name", example = "onegen")),
    responses(
        (status = 200, description = "The served model", body = ModelCard),
        (status = 404, description = "Another model is served", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    PathParam(model): PathParam,
) -> Result<Json<ModelCard>, ApiError> {
    app.model.check(&model)?;
    Ok(Json(card(&app)))
}

fn card(app: &App) -> ModelCard {
    ModelCard {
        id: app.model.name.clone(),
        object: ModelObject::Model,
        created: app.model.created,
        owned_by: "onegen".to_owned(),
        root: app.model.directory_name.clone(),
        max_model_len: app.context_tokens(),
    }
}
