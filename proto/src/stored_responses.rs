//! `/v1/responses/{id}`: stored responses. `/v1/responses/input_tokens`: the length of one before it is written.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How a response is shown again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GetResponse {
    /// `file_search_call.results` adds the passages that were found, as the collection holds them now;
    /// other values change nothing. May be called `include[]` and come several times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<String>,
}

/// A response was deleted. What was said stays in its conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedResponse {
    /// Its id.
    #[schema(example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: String,
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
}

/// How many tokens the model would read before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokens {
    /// Always `response.input_tokens`.
    #[schema(example = "response.input_tokens")]
    pub object: String,
    /// Tokens of messages, instructions and the conversation so far, passages that it has read included.
    pub input_tokens: usize,
}
