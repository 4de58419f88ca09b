//! The OpenAPI document.

use std::sync::Arc;

use axum::http::Method;
use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, Response, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::admission::access::refusals;
use crate::app::App;
use crate::routes::routes;
use crate::wire::schema_rules::add_rules;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "OneGen",
        description = "One model that retrieves while it writes. OpenAI's chat API; what is ours stands under `onegen` and `retrieval`."
    ),
    components(schemas(
        onegen_proto::ChatStreamEvent,
        onegen_proto::ResponseEvent,
        onegen_proto::LinkEntitiesEvent,
        // This type and filters contain each other, and utoipa does not follow such a cycle.
        onegen_proto::CombinedFilter,
        onegen_proto::NegatedFilter,
    )),
    tags(
        (name = "chat", description = "Conversations with the model"),
        (name = "completions", description = "Plain text, gone on with"),
        (name = "responses", description = "OpenAI's Responses API"),
        (name = "conversations", description = "What the server remembers of them"),
        (name = "documents", description = "What can be retrieved, changed while it is served"),
        (name = "embeddings", description = "Texts as vectors"),
        (name = "entities", description = "Mentions in texts, by models that link them"),
        (name = "models", description = "What is served"),
        (name = "operations", description = "For those who run it"),
    ),
    // The first alternative is no key; the server's configuration decides.
    security((), ("api_key" = []))
)]
struct Document;

/// All routes of the API with the document that describes them.
pub(super) fn documented_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi()).merge(routes())
}

/// Says how a key is sent.
fn add_api_key(document: &mut utoipa::openapi::OpenApi) {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("api_key", bearer);
}

/// Documents the responses of the layers before the routes.
fn add_refusals(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::PUT, &mut item.put),
            (Method::POST, &mut item.post),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else {
                continue;
            };
            for (status, why) in refusals(&method, path) {
                let response = operation.responses.responses.entry(status.to_owned());
                response.or_insert_with(|| refusal(why).into());
            }
        }
    }
}

fn refusal(why: &str) -> Response {
    let envelope = Ref::from_schema_name("ErrorEnvelope");
    ResponseBuilder::new()
        .description(why)
        .content("application/json", Content::new(Some(envelope)))
        .build()
}

/// The OpenAPI document of everything that is served.
pub fn openapi() -> Value {
    let mut document = documented_routes().into_openapi();
    add_api_key(&mut document);
    add_refusals(&mut document);
    // This cannot fail, because the document consists of texts, numbers and maps whose keys are
    // texts.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    add_rules(&mut document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::access::is_open;

    fn references<'d>(value: &'d Value, found: &mut Vec<&'d str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_the_document_refers_to_is_in_it() {
        let document = openapi();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_documented_path_but_the_open_ones_needs_a_key() {
        let document = openapi();
        for path in document["paths"].as_object().unwrap().keys() {
            let open = is_open(&Method::GET, path);
            assert_eq!(
                open,
                ["/healthz", "/readyz"].contains(&path.as_str()),
                "{path}"
            );
        }
    }
}
