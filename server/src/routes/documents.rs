//! Documents: put in, looked at, taken out; live in the next retrieval.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_proto::{
    DeletedDocument, DocumentBatch, ErrorEnvelope, InCollection, StoredDocument,
    UpsertDocumentsRequest, UpsertedDocument, UpsertedDocuments,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::collections::Collection;
use crate::documents::{self, Upload};
use crate::routes::errors::{BodyErrors, ServerErrors};
use crate::wire::errors::ApiError;
use crate::wire::extract::{PathParam, QueryParams};
use crate::wire::json::{JsonBody, typed};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(upsert))
        .routes(routes!(get, delete))
}

/// Puts documents into a collection, each in place of the one with its id. All are put in or none;
/// the answer comes when they are on the disk, and the next retrieval finds them.
#[utoipa::path(
    method(put, post), path = "/v1/documents", tag = "documents",
    request_body = UpsertDocumentsRequest,
    responses(
        BodyErrors,
        (status = 200, description = "They are put in", body = UpsertedDocuments),
        (status = 400, description = "A document makes no sense, or cannot be embedded", body = ErrorEnvelope),
        (status = 404, description = "There is no such collection", body = ErrorEnvelope),
        (status = 409, description = "The collection is searched only", body = ErrorEnvelope),
        (status = 500, description = "The server failed, and nothing was changed", body = ErrorEnvelope),
    )
)]
async fn upsert(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Json<UpsertedDocuments>, ApiError> {
    let (upload, ids) = validate(body, &app, &caller)?;
    let collection = upload.collection.name().to_owned();
    let passages = upload
        .put_in(&app.embedding, &app.deleted_documents)
        .await?;
    let upserted = |(id, passages)| UpsertedDocument {
        id,
        object: "document".to_owned(),
        passages,
    };
    Ok(Json(UpsertedDocuments {
        object: "list".to_owned(),
        collection,
        data: ids.into_iter().zip(passages).map(upserted).collect(),
    }))
}

/// The field of a document's body that is not the document's.
#[derive(Deserialize, ToSchema)]
struct WithinCollection {
    collection: Option<String>,
}

/// The documents of a body with `documents`, else the one that the body is; and their ids.
fn validate(
    mut body: Value,
    app: &App,
    caller: &Caller,
) -> Result<(Upload, Vec<String>), ApiError> {
    if body.get("documents").is_some() {
        refuse_other_collections(&body)?;
        let batch: DocumentBatch = typed(body)?;
        let ids = batch.documents.iter().map(|d| d.id.clone()).collect();
        let collection = in_collection(app, caller, batch.collection)?;
        return Ok((Upload::batch(collection, batch.documents)?, ids));
    }
    // Apart from the document, so that a fault in either is named.
    let collection = body
        .as_object_mut()
        .and_then(|body| body.remove("collection"));
    let WithinCollection { collection } = typed(serde_json::json!({ "collection": collection }))?;
    let document: onegen_proto::Document = typed(body)?;
    let ids = vec![document.id.clone()];
    let collection = in_collection(app, caller, collection)?;
    Ok((Upload::one(collection, document)?, ids))
}

/// Refuses a batch of which a document names another collection than the batch.
fn refuse_other_collections(batch: &Value) -> Result<(), ApiError> {
    let documents = batch["documents"].as_array().into_iter().flatten();
    for (number, document) in documents.enumerate() {
        let named = document.get("collection").filter(|named| !named.is_null());
        if named.is_some_and(|named| batch.get("collection") != Some(named)) {
            return Err(ApiError::invalid(
                format!("documents[{number}].collection"),
                "a batch goes into one collection; name it beside documents",
            ));
        }
    }
    Ok(())
}

fn in_collection(
    app: &App,
    caller: &Caller,
    name: Option<String>,
) -> Result<Arc<Collection>, ApiError> {
    let collection = app.collections.get(name.as_deref(), caller, "collection")?;
    Ok(collection.clone())
}

/// A document, or one passage of a long one.
#[utoipa::path(
    get, path = "/v1/documents/{id}", tag = "documents",
    params(("id" = String, Path, description = "The id of the document or passage, percent-encoded", example = "country-peru"), InCollection),
    responses(
        ServerErrors,
        (status = 200, description = "The document", body = StoredDocument),
        (status = 404, description = "There is no such document or collection", body = ErrorEnvelope),
        (status = 500, description = "The document could not be read", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(within): QueryParams<InCollection>,
) -> Result<Json<StoredDocument>, ApiError> {
    let collection = in_collection(&app, &caller, within.collection)?;
    Ok(Json(documents::get(&collection, id).await?))
}

/// Takes a document out, all its passages with it. No answer that begins after this reads it: what
/// conversations hold of it is dropped from their logs and caches. One that its client names then
/// answers `conversation_holds_deleted_document` until it is rebuilt; one that is recognised by its
/// messages is encoded afresh without it.
#[utoipa::path(
    delete, path = "/v1/documents/{id}", tag = "documents",
    params(("id" = String, Path, description = "The document's id, percent-encoded", example = "country-peru"), InCollection),
    responses(
        ServerErrors,
        (status = 200, description = "It is gone", body = DeletedDocument),
        (status = 400, description = "The id is a passage's of a long document", body = ErrorEnvelope),
        (status = 404, description = "There is no such document or collection", body = ErrorEnvelope),
        (status = 409, description = "The collection is searched only", body = ErrorEnvelope),
        (status = 500, description = "The server failed, and nothing was changed", body = ErrorEnvelope),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(within): QueryParams<InCollection>,
) -> Result<Json<DeletedDocument>, ApiError> {
    let collection = in_collection(&app, &caller, within.collection)?;
    let (passages, conversations) =
        documents::take_out(&app.deleted_documents, &collection, id.clone()).await?;
    Ok(Json(DeletedDocument {
        id,
        object: "document.deleted".to_owned(),
        deleted: true,
        collection: collection.name().to_owned(),
        passages,
        conversations,
    }))
}
