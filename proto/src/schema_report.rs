//! What is known of a text whose JSON schema was given.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is known of a text whose JSON schema was given. The schema is enforced while the text is written, as far
/// as that is possible, and the finished text is held against the whole schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchemaReport {
    /// Whether the text is JSON that the whole schema allows. Null if that could not be found out.
    pub valid: Option<bool>,
    /// Where and how the text does not meet the schema, or why that is not known. Null if it does.
    #[schema(example = "/tags: value has non-unique elements")]
    pub error: Option<String>,
    /// Keywords that were not enforced while the text was written, each behind the JSON pointer of its schema.
    #[schema(example = json!(["/properties/tags: uniqueItems"]))]
    pub not_enforced: Vec<String>,
    /// Formats that were neither enforced nor checked, because only their inventor knows them. Whether the text has
    /// them is not part of `valid`.
    #[schema(example = json!(["/properties/file: format \"path\""]))]
    pub not_checked: Vec<String>,
}
