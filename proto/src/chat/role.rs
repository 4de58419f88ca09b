//! Who said a message.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// OpenAI's newer name for `system`; the same here.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}
