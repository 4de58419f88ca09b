//! Requests of operators.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// The collections whose index was opened again.
    pub collections: Vec<String>,
    /// What could not be read and stays as it was: `API keys`, `certificate`, `collection NAME`. The
    /// server's log says why.
    pub failed: Vec<String>,
}
