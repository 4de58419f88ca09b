//! Constraints on the text of an answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// OpenAI's way to say what the answer must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema {
        /// The schema.
        json_schema: JsonSchemaFormat,
    },
}

/// A schema and its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// What the client calls it; changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "capital")]
    pub name: Option<String>,
    /// A JSON Schema. What of it cannot be enforced while the text is written is named in the answer's
    /// `onegen.schema`, with whether the finished text meets the whole schema. Null where it is missing, which the server tells by its whole name.
    #[serde(default)]
    #[schema(value_type = Object, required)]
    pub schema: Value,
    /// The schema is kept to in any case, as far as it can be enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// vLLM's way to say what the answer must be. Exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// JSON that this JSON Schema allows, or a text that holds such a schema. See `response_format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// A text that this regular expression of at most 16 KiB matches as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Regex)]
    pub regex: Option<String>,
    /// One of these texts: at most 1,000, of 64 KiB together, which the model's vocabulary can write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 1000)]
    pub choice: Option<Vec<String>>,
    /// A text of this grammar, in llguidance's variant of Lark, of at most 64 KiB and 1,000 rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<String>,
}
