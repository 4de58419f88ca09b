//! Which events a stream of a chat completion holds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose events a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamEvents {
    /// OpenAI's chunks, and between them [`OpenWebUiChunk`](super::OpenWebUiChunk)s for each passage that is read. Strict
    /// clients choke on chunks without choices.
    OpenWebui,
    /// [`UiMessagePart`](super::UiMessagePart)s instead of chunks: Vercel's UI message stream, as `useChat` reads it.
    VercelUi,
}
