//! Schemas that cannot be said by an attribute: fields that take a text or several, and fields that
//! take few values.

use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

/// Of `query` in a search.
pub(crate) fn queries() -> RefOr<Schema> {
    // Not white space alone.
    one_or_up_to(32, Some(r"\S"))
}

/// Of `prompt` in a completion.
pub(crate) fn prompts() -> RefOr<Schema> {
    one_or_up_to(16, None)
}

/// Of `input` for embeddings.
pub(crate) fn inputs() -> RefOr<Schema> {
    one_or_up_to(2048, None)
}

fn one_or_up_to(most: usize, pattern: Option<&str>) -> RefOr<Schema> {
    let text = || {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .min_length(Some(1))
            .pattern(pattern)
    };
    let several = ArrayBuilder::new()
        .items(text())
        .min_items(Some(1))
        .max_items(Some(most));
    OneOfBuilder::new().item(text()).item(several).into()
}

/// Of a flag that may be sent, but not be set.
pub(crate) fn never() -> RefOr<Schema> {
    few(Type::Boolean, [Some(Value::Bool(false)), None])
}

/// Of `ranker` in a search.
pub(crate) fn rankers() -> RefOr<Schema> {
    few(
        Type::String,
        [Some("auto".into()), Some("none".into()), None],
    )
}

/// Of `text.verbosity` in a response.
pub(crate) fn verbosities() -> RefOr<Schema> {
    few(Type::String, [Some("medium".into()), None])
}

/// Some values of a type, or null.
fn few<const N: usize>(kind: Type, values: [Option<Value>; N]) -> RefOr<Schema> {
    let kinds = SchemaType::Array(vec![kind, Type::Null]);
    let values = values.map(|value| value.unwrap_or(Value::Null));
    let schema = ObjectBuilder::new().schema_type(kinds);
    schema.enum_values(Some(values)).into()
}
