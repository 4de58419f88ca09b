//! How every error looks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// OpenAI's envelope, as a response's body or as an event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong. All four keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// For people: what was found, and what would help.
    #[schema(example = "messages must hold at least one message")]
    pub message: String,
    /// Whose fault it is: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: String,
    /// The field at fault.
    #[schema(example = "messages")]
    pub param: Option<String>,
    /// For programs.
    #[schema(example = "invalid_value")]
    pub code: Option<String>,
}
