//! What the text of a response must be.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// What the text must be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseText {
    /// Its form. Default: any.
    #[serde(default)]
    pub format: Option<TextFormat>,
    /// `medium` is all that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::verbosities)]
    pub verbosity: Option<String>,
}

/// Forms of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema {
        /// What the client calls it; changes nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "capital")]
        name: Option<String>,
        /// A JSON Schema.
        #[schema(value_type = Object, example = json!({"type": "object"}))]
        schema: Value,
        /// The schema is kept to in any case.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
        /// Not read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
    },
}
