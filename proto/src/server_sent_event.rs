//! Server-sent events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One event of a stream of server-sent events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerSentEvent {
    /// Its value as JSON, or `[DONE]` where that ends the stream.
    #[schema(content_media_type = "application/json")]
    pub data: String,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}
