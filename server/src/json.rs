//! Reading a JSON body, with errors that say where.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::app::App;
use crate::errors::ApiError;

/// A body that is JSON of any shape.
pub(crate) struct JsonBody(pub(crate) Value);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
            let content_type = String::from_utf8_lossy(content_type.as_bytes());
            let essence = content_type.split(';').next().unwrap_or_default().trim();
            if !essence.eq_ignore_ascii_case("application/json") {
                return Err(ApiError::NotJson(essence.to_owned()));
            }
        }
        let body = read(request, app).await?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(ApiError::MalformedJson)
    }
}

/// The same, or no body at all.
pub(crate) struct OptionalJsonBody(pub(crate) Option<Value>);

impl FromRequest<Arc<App>> for OptionalJsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = read(Request::from_parts(parts.clone(), body), app).await?;
        if body.is_empty() {
            return Ok(Self(None));
        }
        let again = Request::from_parts(parts, Body::from(body));
        let JsonBody(value) = JsonBody::from_request(again, app).await?;
        Ok(Self(Some(value)))
    }
}

async fn read(request: Request, app: &Arc<App>) -> Result<Bytes, ApiError> {
    let body = Bytes::from_request(request, app).await;
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge {
            limit_bytes: app.limits.body_bytes(),
        },
        _ => ApiError::UnreadableBody(rejection.body_text()),
    })
}

/// Gives a JSON value its type.
///
/// # Errors
/// [`ApiError::Invalid`] names the field, as `messages[0].content`.
pub(crate) fn typed<T: DeserializeOwned>(mut value: Value) -> Result<T, ApiError> {
    check_objects("body", "", &value)?;
    make_whole(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = error.inner().to_string();
        let mut param = match error.path().to_string().as_str() {
            "." => String::new(),
            // A key of a map that is not what it should be has no name in the path.
            path => path.trim_end_matches(".?").to_owned(),
        };
        // serde puts a missing field's name into the message and its parent into the path.
        let missing = message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        if let Some(field) = missing {
            if !param.is_empty() {
                param.push('.');
            }
            param.push_str(field);
        }
        if param.is_empty() {
            param.push_str("body");
        }
        ApiError::invalid(param, message)
    })
}

/// Fields whose contents are not the server's to change.
const VERBATIM: &[&str] = &["filter", "filters", "json", "metadata", "schema"];

/// Makes integers of numbers such as `3.0`, which to JSON are the same.
fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0);
            // Not the ends themselves, to which other numbers are rounded.
            match whole {
                Some(float) if (0.0..18_446_744_073_709_551_616.0).contains(&float) => {
                    *value = (float as u64).into();
                }
                Some(float) if float < 0.0 && float > -9_223_372_036_854_775_808.0 => {
                    *value = (float as i64).into();
                }
                _ => {}
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(fields) => {
            let fields = fields.iter_mut();
            fields
                .filter(|(name, _)| !VERBATIM.contains(&name.as_str()))
                .for_each(|(_, value)| make_whole(value));
        }
        _ => {}
    }
}

/// Fields of requests that are objects, and those that are lists of objects.
const OBJECTS: &[&str] = &[
    "format",
    "json_schema",
    "ranking_options",
    "response_format",
    "retrieval",
    "stream_options",
    "structured_outputs",
    "text",
];
const LISTS_OF_OBJECTS: &[&str] = &["documents", "items", "messages", "tools"];

/// Refuses arrays where objects are wanted: serde would take their elements for the fields, in their
/// order.
fn check_objects(name: &str, path: &str, value: &Value) -> Result<(), ApiError> {
    let Value::Object(fields) = value else {
        return Err(ApiError::invalid(name, "expected a JSON object"));
    };
    for (field, value) in fields {
        let name = format!("{path}{field}");
        // What a schema holds is not a request's.
        let is_schema = !path.is_empty() && field == "schema" && !value.is_object();
        if is_schema || OBJECTS.contains(&field.as_str()) && value.is_array() {
            return Err(ApiError::invalid(name, "expected a JSON object"));
        }
        if OBJECTS.contains(&field.as_str()) && value.is_object() {
            check_objects(&name, &format!("{name}."), value)?;
        }
        if LISTS_OF_OBJECTS.contains(&field.as_str()) {
            for (at, one) in value.as_array().into_iter().flatten().enumerate() {
                let name = format!("{name}[{at}]");
                check_objects(&name, &format!("{name}."), one)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use onegen_proto::ChatCompletionRequest;
    use serde_json::json;

    use super::*;

    fn fault(body: Value) -> (String, String) {
        match typed::<ChatCompletionRequest>(body) {
            Err(ApiError::Invalid { param, message }) => (param, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let (param, _) = fault(json!({"model": "m", "messages": [{"role": "user", "content": 7}]}));
        assert_eq!(param, "messages[0].content");
        let (param, message) = fault(json!({"model": "m", "messages": [], "top_p": "much"}));
        assert_eq!(param, "top_p");
        assert!(message.contains("much"), "{message}");
        let (param, _) = fault(json!([]));
        assert_eq!(param, "body");
    }

    #[test]
    fn an_array_is_no_object_however_well_its_elements_fit() {
        let plain = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for (field, value, at) in [
            ("retrieval", json!([true]), "retrieval"),
            ("stream_options", json!([null]), "stream_options"),
            ("messages", json!([["user", "x"]]), "messages[0]"),
            (
                "response_format",
                json!({"type": "text", "json_schema": {"name": "x", "schema": []}}),
                "response_format.json_schema.schema",
            ),
            (
                "response_format",
                json!({"type": "json_schema", "json_schema": ["x", {}]}),
                "response_format.json_schema",
            ),
        ] {
            let mut body = plain.clone();
            body[field] = value;
            assert_eq!(fault(body).0, at);
        }
        assert_eq!(fault(json!(["m", []])).0, "body");
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let body = json!({
            "model": "m", "messages": [], "seed": -3.0, "max_tokens": 2.0, "temperature": 1.0,
            "retrieval": {"k": 5e0, "filter": {"value": 2.0}},
        });
        let request: ChatCompletionRequest = typed(body.clone()).unwrap();
        assert_eq!((request.seed, request.max_tokens), (Some(-3), Some(2)));
        let retrieval = request.retrieval.unwrap();
        assert_eq!(retrieval.k, Some(5));
        assert_eq!(retrieval.filter, Some(json!({"value": 2.0})));
        let mut broken = body;
        broken["max_tokens"] = json!(2.5);
        assert_eq!(fault(broken).0, "max_tokens");
    }

    #[test]
    fn a_missing_field_is_named_by_its_own_path() {
        assert_eq!(fault(json!({"messages": []})).0, "model");
        let (param, _) = fault(json!({"model": "m", "messages": [{"role": "user"}]}));
        assert_eq!(param, "messages[0].content");
    }
}
