//! Adds to the OpenAPI document what cannot be derived from types and handlers: operations' names,
//! bounds of numbers, which fields go together, and which fields are refused.

use serde_json::{Map, Value, json};

use crate::wire::unsupported::neutral_fields;

/// Adds all rules to the document.
pub(crate) fn add_rules(document: &mut Value) {
    name_operations(document);
    for (schema, rule) in field_rules().into_iter().chain(neutral_fields()) {
        let fields = &mut document["components"]["schemas"][schema];
        if let Some(rules) = fields["allOf"].as_array_mut() {
            rules.push(rule);
        } else {
            fields["allOf"] = json!([rule]);
        }
    }
    // A body with several documents may also contain the fields of a single one, which are ignored.
    let upsert = &mut document["components"]["schemas"]["UpsertDocumentsRequest"];
    if let Some(upsert) = upsert.as_object_mut()
        && let Some(variants) = upsert.remove("oneOf")
    {
        upsert.insert("anyOf".to_owned(), variants);
    }
    bound_integers(document);
    name_paths(document);
    let mut counted = document["components"]["schemas"]["ResponseRequest"].clone();
    if let Some(required) = counted["required"].as_array_mut() {
        required.retain(|field| field != "model");
    }
    document["components"]["schemas"]["InputTokensRequest"] = counted;
    let count = &mut document["paths"]["/v1/responses/input_tokens"]["post"];
    let body = &mut count["requestBody"]["content"]["application/json"]["schema"];
    *body = json!({"$ref": "#/components/schemas/InputTokensRequest"});
}

/// Writes parameters that may hold slashes as OpenAPI does, which has no other word for them.
fn name_paths(document: &mut Value) {
    if let Some(paths) = document["paths"].as_object_mut() {
        let named = std::mem::take(paths).into_iter();
        paths.extend(named.map(|(path, item)| (path.replace("{*", "{"), item)));
    }
}

/// Names operations by method and path, since handlers of several nouns have the same names.
fn name_operations(document: &mut Value) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let words = path.split(|c: char| !c.is_ascii_alphanumeric());
            let words = words.filter(|word| !word.is_empty() && *word != "v1");
            let name = words.fold(method.clone(), |name, word| format!("{name}_{word}"));
            operation["operationId"] = name.into();
        }
    }
}

fn bound_integers(value: &mut Value) {
    let Value::Object(fields) = value else {
        if let Value::Array(items) = value {
            items.iter_mut().for_each(bound_integers);
        }
        return;
    };
    let is_integer = match fields.get("type") {
        Some(Value::String(kind)) => kind == "integer",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "integer"),
        _ => false,
    };
    if is_integer {
        let unsigned = fields
            .get("minimum")
            .is_some_and(|min| min.as_i64() >= Some(0));
        let short = fields.get("format").is_some_and(|format| format == "int32");
        let (least, most) = match (unsigned, short) {
            (true, true) => (0, u32::MAX.into()),
            (true, false) => (0, u64::MAX),
            (false, true) => (i32::MIN.into(), i32::MAX as u64),
            (false, false) => (i64::MIN, i64::MAX as u64),
        };
        fields.entry("minimum").or_insert(least.into());
        fields.entry("maximum").or_insert(most.into());
    }
    fields.values_mut().for_each(bound_integers);
}

/// Which fields of a type go together.
fn field_rules() -> Vec<(&'static str, Value)> {
    let (chat, completion) = ("ChatCompletionRequest", "CompletionRequest");
    let outputs = ["json", "regex", "choice", "grammar"];
    let outputs = outputs.map(|field| only_one(field, &outputs));
    let unforced_or_open = json!({"anyOf": [
        {"properties": {"forced": {"enum": [false, null]}}},
        {"properties": {
            "enabled": {"enum": [true, null]},
            "max_retrievals": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]},
        }},
    ]});
    let no_events = json!({"properties": {"events": {"type": "null"}}});
    vec![
        (chat, only_with("stream", "stream_options", json!([null]))),
        (chat, only_with("stream", "resumable", json!([false, null]))),
        (
            chat,
            only_with("logprobs", "top_logprobs", json!([0, null])),
        ),
        (chat, not_both("max_tokens", "max_completion_tokens")),
        (chat, not_both("response_format", "structured_outputs")),
        (
            completion,
            only_with("stream", "stream_options", json!([null])),
        ),
        (
            completion,
            json!({"properties": {"stream_options": no_events}}),
        ),
        (
            "ResponseRequest",
            not_both("conversation", "previous_response_id"),
        ),
        ("RetrievalOptions", unforced_or_open),
        ("StructuredOutputs", json!({"oneOf": outputs})),
    ]
}

/// A rule: `field` must have one of the values of `neutral`, unless `flag` is set.
fn only_with(flag: &str, field: &str, neutral: Value) -> Value {
    json!({"anyOf": [
        {"properties": {field: {"enum": neutral}}},
        {"properties": {flag: {"const": true}}, "required": [flag]},
    ]})
}

/// A rule: `field` must be present, and none of the others in `all`.
fn only_one(field: &str, all: &[&str]) -> Value {
    let of_field = |one: &str| {
        if one == field {
            json!({"not": {"type": "null"}})
        } else {
            json!({"type": "null"})
        }
    };
    let properties = all.iter().map(|one| ((*one).to_owned(), of_field(one)));
    json!({"properties": properties.collect::<Map<_, _>>(), "required": [field]})
}

fn not_both(one: &str, other: &str) -> Value {
    let without = |field: &str| json!({"properties": {field: {"type": "null"}}});
    json!({"anyOf": [without(one), without(other)]})
}
