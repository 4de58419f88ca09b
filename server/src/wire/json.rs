//! Reads JSON bodies, with errors that name the place.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::json_text::{count_values, lone_surrogate};
use crate::wire::shape::{conform, fault_within};

/// How long a request's body may be, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

impl BodyLimit {
    /// Waits for a body.
    ///
    /// # Errors
    /// [`ApiError::BodyTimeout`].
    pub(crate) async fn in_time<T>(self, body: impl Future<Output = T>) -> Result<T, ApiError> {
        let after = self.time;
        let read = timeout(after, body).await;
        read.map_err(|_| ApiError::BodyTimeout { after })
    }
}

/// Some clients write it before a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The most values of a body. A body of small values takes far more time and memory than one text of its length.
const MAX_VALUES: usize = 100_000;
/// The bytes of a body that are parsed on an async thread; more take long enough to delay others.
const SMALL_BODY: usize = 64 << 10;

/// A body that is JSON of any shape.
pub(crate) struct JsonBody(pub(crate) Value);

impl<S> FromRequest<S> for JsonBody
where
    S: Send + Sync,
    BodyLimit: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
            let content_type = String::from_utf8_lossy(content_type.as_bytes());
            let essence = content_type.split(';').next().unwrap_or_default().trim();
            if !essence.eq_ignore_ascii_case("application/json") {
                return Err(ApiError::NotJson(essence.to_owned()));
            }
        }
        if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING) {
            let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
            return Err(ApiError::UnknownEncoding(encoding));
        }
        let body = read(request, state).await?;
        let value = if body.len() <= SMALL_BODY {
            parse(&body)
        } else {
            blocking(move || parse(&body)).await?
        };
        value.map(Self)
    }
}

fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let values = count_values(text);
    if values > MAX_VALUES {
        return Err(ApiError::TooManyValues {
            values,
            most: MAX_VALUES,
        });
    }
    serde_json::from_slice(text).map_err(|error| match lone_surrogate(text) {
        None => ApiError::MalformedJson(error),
        Some(lone) => ApiError::invalid(
            lone.path,
            format!(
                "holds {}, which is half of a character; send whole characters",
                lone.escape
            ),
        ),
    })
}

/// A body that is JSON of any shape, or no body at all.
pub(crate) struct OptionalJsonBody(pub(crate) Option<Value>);

impl<S> FromRequest<S> for OptionalJsonBody
where
    S: Send + Sync,
    BodyLimit: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = read(Request::from_parts(parts.clone(), body), state).await?;
        if body.is_empty() {
            return Ok(Self(None));
        }
        let again = Request::from_parts(parts, Body::from(body));
        let JsonBody(value) = JsonBody::from_request(again, state).await?;
        Ok(Self(Some(value)))
    }
}

async fn read<S>(request: Request, state: &S) -> Result<Bytes, ApiError>
where
    S: Send + Sync,
    BodyLimit: FromRef<S>,
{
    let limit = BodyLimit::from_ref(state);
    let body = limit.in_time(Bytes::from_request(request, state)).await?;
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge {
            limit_bytes: limit.bytes,
        },
        _ => ApiError::UnreadableBody(rejection.body_text()),
    })
}

/// Converts a JSON value to a type, after checking it against the type's schema.
///
/// # Errors
/// [`ApiError::Invalid`] names the field, as `messages[0].content`.
pub(crate) fn typed<T: DeserializeOwned + ToSchema + 'static>(
    mut value: Value,
) -> Result<T, ApiError> {
    conform::<T>(&mut value)?;
    serde_path_to_error::deserialize(&value).map_err(|error| {
        let message = error.inner().to_string();
        let mut param = match error.path().to_string().as_str() {
            "." => String::new(),
            // The path ends with `.?` if the key of a map has the wrong type.
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
        // serde does not say where in a value it is that fits none of several types.
        if let Some(fault) = fault_within::<T>(&value, &param) {
            return fault;
        }
        if param.is_empty() {
            param.push_str("body");
        }
        ApiError::invalid(param, message)
    })
}

#[cfg(test)]
mod tests {
    use onegen_proto::{ChatCompletionRequest, ResponseRequest};
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
    fn no_object_of_any_request_is_written_as_an_array() {
        // An earlier version kept a list of object fields that lacked these, so serde accepted
        // arrays for them.
        let refused = |body: Value| match typed::<ResponseRequest>(body) {
            Err(ApiError::Invalid { param, .. }) => param,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(json!({"model": "m", "input": [["message", "user", "x"]]})),
            "input[0]"
        );
        let part = json!([["text", "x"]]);
        assert_eq!(
            refused(json!({"model": "m", "input": [{"role": "user", "content": part}]})),
            "input[0].content[0]"
        );
        let part = json!([["text", "x"]]);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": part}]});
        assert_eq!(fault(body).0, "messages[0].content[0]");
        assert_eq!(
            refused(json!({"model": "m", "input": "x", "conversation": ["conv_1"]})),
            "conversation"
        );
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
    fn a_fault_in_one_of_several_types_is_named_by_its_own_path() {
        let refused =
            |input: Value| match typed::<ResponseRequest>(json!({"model": "m", "input": input})) {
                Err(ApiError::Invalid { param, message }) => (param, message),
                other => panic!("{other:?}"),
            };
        let fine = json!({"role": "user", "content": "x"});
        for (second, at, said) in [
            (
                json!({"role": "user", "content": 7}),
                "input[1].content",
                "a string",
            ),
            (
                json!({"role": "robot", "content": "x"}),
                "input[1].role",
                "\"user\"",
            ),
            (json!({"role": "user"}), "input[1]", "content"),
            (
                json!({"role": "user", "content": [{"text": "x"}]}),
                "input[1].content[0].type",
                "missing",
            ),
            (json!("x"), "input[1]", "a JSON object"),
            (json!({}), "input[1]", "id"),
        ] {
            let (param, message) = refused(json!([fine, second]));
            assert_eq!(param, at, "{message}");
            assert!(message.contains(said), "{at}: {message}");
        }
        assert_eq!(refused(json!(7)).0, "input");
    }

    #[test]
    fn half_a_character_is_named_by_its_place() {
        let body = br#"{"documents": [{"text": "\ud83d\ude00"}, {"text": "a \ud83d"}]}"#;
        match parse(body) {
            Err(ApiError::Invalid { param, message }) => {
                assert_eq!(param, "documents[1].text");
                assert!(message.contains("\\ud83d"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            parse(br#"{"a": "\ud8"}"#),
            Err(ApiError::MalformedJson(_))
        ));
    }

    #[test]
    fn a_body_of_many_small_values_is_refused_unread() {
        let body = |values: usize| format!("[{}1]", "1,".repeat(values - 2));
        assert!(parse(body(MAX_VALUES).as_bytes()).is_ok());
        let refused = parse(body(MAX_VALUES + 1).as_bytes());
        assert!(matches!(
            refused,
            Err(ApiError::TooManyValues {
                values: 100_001,
                ..
            })
        ));
        let text = format!("[\"{}\"]", ",[{".repeat(MAX_VALUES));
        assert!(parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn a_missing_field_is_named_by_its_own_path() {
        assert_eq!(fault(json!({"messages": []})).0, "model");
        let (param, _) = fault(json!({"model": "m", "messages": [{"role": "user"}]}));
        assert_eq!(param, "messages[0].content");
    }
}
