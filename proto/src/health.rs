//! Whether the server lives, and whether it may be asked.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether it takes requests.
    pub status: HealthStatus,
    /// The served model's name.
    pub model: String,
    /// Passages that can be retrieved, in all collections together.
    pub passages: u64,
    /// The collections, the default one first.
    pub collections: Vec<CollectionCard>,
    /// The collection that is indexed at the moment. Only while the server loads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexing: Option<CollectionIndexing>,
}

/// How far the indexing of a collection is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionIndexing {
    /// The collection's name.
    #[schema(example = "default")]
    pub collection: String,
    /// Passages that are embedded.
    pub passages: u64,
    /// How much of the corpus is read, in percent of its bytes.
    pub percent: u64,
}

/// A collection that can be retrieved from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionCard {
    /// Its name, as requests give it.
    #[schema(example = "default")]
    pub name: String,
    /// Passages in it.
    pub passages: u64,
}

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It lives and takes requests.
    Ok,
    /// It loads its model or indexes its collections.
    Loading,
    /// It finishes what it has begun and takes nothing new.
    Draining,
    /// Its disk does not take what has to be kept; it answers what it can without.
    Unwritable,
}
