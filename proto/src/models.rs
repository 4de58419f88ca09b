//! `GET /v1/models`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The models that are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: ModelListObject,
    /// Exactly one.
    pub data: Vec<ModelCard>,
}

/// The type of a [`ModelList`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelListObject {
    /// `list`.
    #[default]
    List,
}

/// A served model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelCard {
    /// The name to put into a request's `model`.
    #[schema(example = "onegen")]
    pub id: String,
    /// Always `model`.
    pub object: ModelObject,
    /// When the server loaded it, in seconds since 1970.
    pub created: u64,
    /// Always `onegen`.
    #[schema(example = "onegen")]
    pub owned_by: String,
    /// The name of its directory, which a request may use too.
    #[schema(example = "almanac")]
    pub root: String,
    /// Tokens that a conversation can hold, passages included.
    #[schema(example = 1024)]
    pub max_model_len: usize,
}

/// The type of a [`ModelCard`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelObject {
    /// `model`.
    #[default]
    Model,
}
