//! Embeddings of texts by the served model.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use onegen_proto::{
    Embedding, EmbeddingList, EmbeddingUsage, EmbeddingVector, EmbeddingsRequest, EncodingFormat,
    ErrorEnvelope, InputType,
};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::collections::TextEmbedding;
use crate::routes::errors::BodyErrors;
use crate::traces::RequestTrace;
use crate::wire::errors::ApiError;
use crate::wire::json::{JsonBody, typed};

/// OpenAI's.
const MAX_TEXTS: usize = 2048;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(embed))
}

/// Embeds texts with the served model: what its indexes hold of passages, and what its retrievals
/// search with.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "embeddings",
    request_body = EmbeddingsRequest,
    responses(
        BodyErrors,
        (status = 200, description = "The embeddings", body = EmbeddingList),
        (status = 400, description = "The request makes no sense, or a text is longer than the context", body = ErrorEnvelope),
        (status = 404, description = "There is no such model", body = ErrorEnvelope),
    )
)]
async fn embed(
    State(app): State<Arc<App>>,
    JsonBody(body): JsonBody,
) -> Result<Json<EmbeddingList>, ApiError> {
    let request: EmbeddingsRequest = typed(body)?;
    app.model.check(&request.model)?;
    let width = app.engine.model().hidden_size();
    if let Some(dimensions) = request.dimensions.filter(|&asked| asked != width) {
        let message = format!(
            "is {dimensions}, but this model's embeddings have {width} and cannot be shortened; leave it out"
        );
        return Err(ApiError::invalid("dimensions", message));
    }
    let alone = request.input.is_string();
    let texts = texts(request.input, alone)?;
    let input_type = request.input_type.unwrap_or_default();
    let embedded = embedded(&app, texts, alone, input_type).await?;
    let tokens = embedded.iter().map(|embedded| embedded.tokens).sum();
    if let Some(trace) = RequestTrace::current() {
        trace.read(tokens);
    }
    let format = request.encoding_format.unwrap_or_default();
    let each = embedded.into_iter().enumerate();
    Ok(Json(EmbeddingList {
        object: "list".to_owned(),
        data: each
            .map(|(index, embedded)| Embedding {
                object: "embedding".to_owned(),
                index,
                embedding: encoded(embedded.vector, format),
            })
            .collect(),
        model: app.model.name.clone(),
        usage: EmbeddingUsage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    }))
}

fn texts(input: Value, alone: bool) -> Result<Vec<String>, ApiError> {
    let inputs = match input {
        Value::Array(inputs) => inputs,
        other => vec![other],
    };
    if !(1..=MAX_TEXTS).contains(&inputs.len()) {
        let found = inputs.len();
        let message = format!("holds {found} texts, but must hold 1 to {MAX_TEXTS}");
        return Err(ApiError::invalid("input", message));
    }
    let each = inputs.into_iter().enumerate().map(|(at, input)| {
        let param = || path(alone, at);
        match input {
            Value::String(text) if text.is_empty() => {
                Err(ApiError::invalid(param(), "must not be empty"))
            }
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Array(_) => Err(ApiError::invalid(
                "input",
                "token ids are not taken, since they mean something else to every model; send the text",
            )),
            _ => Err(ApiError::invalid("input", "expected a string or an array of strings")),
        }
    });
    each.collect()
}

fn path(alone: bool, at: usize) -> String {
    if alone {
        "input".to_owned()
    } else {
        format!("input[{at}]")
    }
}

async fn embedded(
    app: &App,
    texts: Vec<String>,
    alone: bool,
    input_type: InputType,
) -> Result<Vec<TextEmbedding>, ApiError> {
    let each = match input_type {
        InputType::Document => {
            let untitled = texts.into_iter().map(|text| (String::new(), text));
            app.embedding.passages(untitled.collect()).await?
        }
        InputType::Query => {
            let mut each = Vec::with_capacity(texts.len());
            for text in texts {
                each.push(app.embedding.query(text).await?);
            }
            each
        }
    };
    let each = each.into_iter().enumerate().map(|(at, embedded)| {
        embedded.map_err(|too_long| ApiError::invalid(path(alone, at), too_long.to_string()))
    });
    each.collect()
}

fn encoded(vector: Vec<f32>, format: EncodingFormat) -> EmbeddingVector {
    match format {
        EncodingFormat::Float => EmbeddingVector::Float(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
            EmbeddingVector::Base64(BASE64_STANDARD.encode(bytes))
        }
    }
}
