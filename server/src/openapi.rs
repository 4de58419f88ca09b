//! The document that describes the API.

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use crate::access::refusals;
use crate::routes;
use crate::schema_rules::add_rules;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "OneGen",
        description = "One model that retrieves while it writes. OpenAI's chat API; what is ours stands under `onegen` and `retrieval`."
    ),
    paths(
        routes::chat::complete,
        routes::conversations::create,
        routes::conversations::get,
        routes::conversations::update,
        routes::conversations::delete,
        routes::conversations::list_items,
        routes::conversations::get_item,
        routes::conversations::create_items,
        routes::conversations::fork,
        routes::conversations::rebuild,
        routes::documents::upsert,
        routes::documents::get,
        routes::documents::delete,
        routes::vector_stores::search,
        routes::embeddings::embed,
        routes::entities::link,
        routes::completions::complete,
        routes::responses::create,
        routes::responses::get,
        routes::responses::delete,
        routes::responses::list_input_items,
        routes::stream::resume,
        routes::stream::stop,
        routes::models::list,
        routes::admin::reload,
        routes::health::healthz,
        routes::health::readyz,
        routes::metrics::metrics,
    ),
    components(schemas(
        onegen_proto::ChatStreamEvent,
        onegen_proto::ResponseEvent,
        onegen_proto::LinkEntitiesEvent,
        // A filter holds them and they it, where the search for schemas ends.
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
    modifiers(&ApiKey, &Refusals),
    // Or none: the server decides with its configuration.
    security((), ("api_key" = []))
)]
struct Document;

/// How a key is sent.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", bearer);
    }
}

/// What the layers before the routes answer in their place.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
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
                    let told = operation.responses.responses.entry(status.to_owned());
                    told.or_insert_with(|| refusal(why).into());
                }
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
    // It cannot fail: the document is made of texts, numbers and maps with texts for keys.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    add_rules(&mut document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
