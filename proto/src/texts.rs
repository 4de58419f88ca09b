//! Schemas that an attribute cannot express: fields that accept one text or several, and fields
//! with few values. Their descriptions are here, too, because utoipa ignores those of the fields.

use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

/// The schema of `query` in a search.
pub(crate) fn queries() -> RefOr<Schema> {
    // The text must not be only white space.
    one_or_up_to(
        32,
        Some(r"\S"),
        "What is searched for: a query, or up to 32 whose results are put together.",
    )
}

/// The schema of `prompt` in a completion.
pub(crate) fn prompts() -> RefOr<Schema> {
    one_or_up_to(
        16,
        None,
        "The text, or up to 16 of them, each of which is gone on with by itself. Control tokens that it \
         spells are plain text. Token ids are refused.",
    )
}

/// The schema of `input` for embeddings.
pub(crate) fn inputs() -> RefOr<Schema> {
    one_or_up_to(
        2048,
        None,
        "A text or up to 2,048 of them, none empty. Token ids are refused.",
    )
}

/// The schema of `input` for linking.
pub(crate) fn linked() -> RefOr<Schema> {
    one_or_up_to(
        128,
        None,
        "A text, or up to 128 of them. Long ones are linked in parts that end where sentences do.",
    )
}

fn one_or_up_to(most: usize, pattern: Option<&str>, description: &str) -> RefOr<Schema> {
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
    let one_or_several = OneOfBuilder::new().item(text()).item(several);
    one_or_several.description(Some(description)).into()
}

/// The schema of a flag that may be sent, but not set.
pub(crate) fn never() -> RefOr<Schema> {
    few(
        Type::Boolean,
        [Some(Value::Bool(false)), None],
        "False, or left out: the query is embedded as it is, and nothing rewrites it.",
    )
}

/// The schema of `ranker` in a search.
pub(crate) fn rankers() -> RefOr<Schema> {
    few(
        Type::String,
        [Some("auto".into()), Some("none".into()), None],
        "`auto` or `none`, which are the same: passages are ranked by their cosine.",
    )
}

/// The schema of `text.verbosity` in a response.
pub(crate) fn verbosities() -> RefOr<Schema> {
    few(
        Type::String,
        [Some("medium".into()), None],
        "`medium` is all that there is.",
    )
}

/// The schema of `dimensions` of embeddings, whose only accepted number is the model's.
pub(crate) fn nothing() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Null))
        .description(Some(
            "Refused, unless it is the model's own width: its embeddings cannot be shortened.",
        ))
        .into()
}

/// The schema of the type of a message's part.
pub(crate) fn parts() -> RefOr<Schema> {
    words(["text", "input_text", "output_text"])
}

/// The schema of the type of a message.
pub(crate) fn message() -> RefOr<Schema> {
    few(
        Type::String,
        [Some("message".into()), None],
        "`message`, or left out; nothing else is supported.",
    )
}

/// The schema of the type of a tool.
pub(crate) fn file_search() -> RefOr<Schema> {
    words(["file_search"])
}

/// The schema of the type of an item that is sent back.
pub(crate) fn file_search_call() -> RefOr<Schema> {
    words(["file_search_call"])
}

/// The types of items that are named by their id.
pub(crate) fn item_reference() -> RefOr<Schema> {
    words(["item_reference", "file_search_call"])
}

/// The schema of `tool_choice` in a response.
pub(crate) fn tool_choices() -> RefOr<Schema> {
    let named = ObjectBuilder::new()
        .property("type", file_search())
        .required("type");
    let word = ["auto", "none", "required"].map(|word| Some(word.into()));
    let [auto, none, required] = word;
    OneOfBuilder::new()
        .item(few(Type::String, [auto, none, required, None], ""))
        .item(named)
        .description(Some(
            "`auto`, `none` (no retrieval), or `required` or `{\"type\": \"file_search\"}` (the answer \
             begins with one). `retrieval` goes before it.",
        ))
        .into()
}

/// The schema of `stop`.
pub(crate) fn stops() -> RefOr<Schema> {
    let text = || {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .min_length(Some(1))
    };
    OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(SchemaType::new(Type::Null)))
        .item(text())
        .item(ArrayBuilder::new().items(text()))
        .description(Some(
            "Texts that end the answer; the first that appears is cut off.",
        ))
        .into()
}

/// The schema of `logit_bias`: token ids and the numbers to add.
pub(crate) fn biases() -> RefOr<Schema> {
    let id = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .pattern(Some("^(0|[1-9][0-9]{0,5})$"));
    let bias = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Number))
        .minimum(Some(-100))
        .maximum(Some(100));
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Object, Type::Null]))
        .property_names(Some(id))
        .additional_properties(Some(Schema::from(bias)))
        .description(Some(
            "Added to the logits of these token ids, each in -100..=100.",
        ))
        .into()
}

fn words<const N: usize>(words: [&str; N]) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .enum_values(Some(words))
        .into()
}

/// The schema of a field that accepts some values of a type, or null.
fn few<const N: usize>(kind: Type, values: [Option<Value>; N], description: &str) -> RefOr<Schema> {
    let kinds = SchemaType::Array(vec![kind, Type::Null]);
    let values = values.map(|value| value.unwrap_or(Value::Null));
    let schema = ObjectBuilder::new().schema_type(kinds);
    let schema = schema.description(Some(description).filter(|text| !text.is_empty()));
    schema.enum_values(Some(values)).into()
}
