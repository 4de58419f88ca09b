//! What is served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_proto::{ModelCard, ModelList, ModelListObject, ModelObject};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
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
        data: vec![ModelCard {
            id: app.model.name.clone(),
            object: ModelObject::Model,
            created: app.model.created,
            owned_by: "onegen".to_owned(),
            root: app.model.directory_name.clone(),
            max_model_len: app.context_tokens(),
        }],
    })
}
