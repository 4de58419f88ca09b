//! Schemas of fields that take a text or several, none of them empty.

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
