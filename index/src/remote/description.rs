//! What a collection in a database is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::calls::fault;
use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::format::unix_seconds;
use crate::live::index::Index;

/// Version of the collections that this program makes and reads.
const VERSION: u32 = 1;

/// What a collection is; it stands beside the passages, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    version: u32,
    pub(super) created_unix_seconds: u64,
    /// Width of every vector.
    pub(super) dimension: u32,
    pub(super) fingerprints: Fingerprints,
    /// How documents become passages and vectors.
    pub(super) documents: DocumentRules,
    /// The index that its passages were pushed from.
    pub(super) source: String,
    /// How many of that index's passages were pushed so far.
    pub(super) pushed: u64,
    /// Whether all of them are there, and the graph over them.
    pub(super) complete: bool,
}

impl Description {
    /// Of a collection that is going to hold an index's passages.
    pub(super) fn of(index: &Index) -> Self {
        let manifest = index.manifest();
        Self {
            version: VERSION,
            created_unix_seconds: unix_seconds(),
            dimension: manifest.dimension,
            fingerprints: index.fingerprints().clone(),
            documents: index.document_rules(),
            source: manifest.index_id.clone(),
            pushed: 0,
            complete: false,
        }
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        // Its fields are strings, numbers and booleans.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what [`Self::as_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_json(json: serde_json::Value) -> Result<Self, String> {
        let version = json["version"].as_u64().unwrap_or_default();
        if version != u64::from(VERSION) {
            return Err(format!(
                "its version is {version}, this program reads {VERSION}; push it again"
            ));
        }
        serde_json::from_value(json)
            .map_err(|error| format!("its description cannot be read: {error}"))
    }
}

/// What the collection at an address is, of which a push has left this description.
///
/// # Errors
/// [`IndexError::Remote`] if there is none, or the push has not come to its end.
pub(super) fn made_by_a_push(
    address: &impl fmt::Display,
    description: Option<Description>,
) -> Result<Description, IndexError> {
    let reason = match description {
        Some(description) if description.complete => return Ok(description),
        Some(_) => "not all of its passages are there; go on with",
        None => "it holds no collection; make one with",
    };
    let reason = format!("{reason} `onegen-index push DIR --to {address}`");
    Err(fault(address, reason))
}
