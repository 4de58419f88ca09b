//! The caller of a request, and what it owns.

use std::fmt;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::wire::errors::ApiError;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask the model, go on with one's own conversations, read and search documents.
    Chat,
    /// Read, change and search documents.
    Documents,
    /// Operate the server: metrics, and whatever no other scope covers.
    Admin,
}

impl Scope {
    /// The scope as key files and errors write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Documents => "documents",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The owner of a conversation: a key, by its name, or nobody in particular on a server without
/// keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Owner(Option<Arc<str>>);

impl Owner {
    pub(crate) fn key(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// The key's name.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }
}

/// The caller of a request: a key, or anybody on a server without keys.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) owner: Owner,
    pub(super) scopes: Vec<Scope>,
    /// The collections that this caller may see; `None` means all.
    pub(super) collections: Option<Vec<String>>,
    /// Ends when the key is withdrawn.
    pub(super) validity: Validity,
}

/// Whether a key is still valid. All clones belong to the same key.
#[derive(Debug, Clone)]
pub(crate) struct Validity(Option<watch::Receiver<()>>);

impl Validity {
    /// A validity that lasts until the returned sender is dropped.
    pub(super) fn new() -> (watch::Sender<()>, Self) {
        let (valid, validity) = watch::channel(());
        (valid, Self(Some(validity)))
    }

    /// The validity of callers without a key, which never ends.
    fn unlimited() -> Self {
        Self(None)
    }

    /// Waits until the key is withdrawn.
    pub(crate) async fn ended(&mut self) {
        match &mut self.0 {
            // Nothing is ever sent, so this waits for the sender to be dropped.
            Some(validity) => while validity.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

impl Caller {
    /// The caller of every request on a server without keys.
    pub(crate) fn anybody() -> Self {
        Self {
            owner: Owner::default(),
            scopes: vec![Scope::Chat, Scope::Documents, Scope::Admin],
            collections: None,
            validity: Validity::unlimited(),
        }
    }

    /// A caller without a key on a server that requires keys.
    pub(super) fn nobody() -> Self {
        Self {
            owner: Owner::default(),
            scopes: Vec::new(),
            collections: Some(Vec::new()),
            validity: Validity::unlimited(),
        }
    }

    /// How long turns of this caller may continue.
    pub(crate) fn validity(&self) -> Validity {
        self.validity.clone()
    }

    /// Whether this caller is the same as another and may do all that the other may.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let scopes = other.scopes.iter().all(|scope| self.scopes.contains(scope));
        let collections = match (&self.collections, &other.collections) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.iter().all(|name| own.contains(name)),
        };
        self.owner == other.owner && scopes && collections
    }

    /// Whether this caller may know of a collection.
    pub(crate) fn sees(&self, collection: &str) -> bool {
        let named = self.collections.as_ref();
        named.is_none_or(|named| named.iter().any(|name| name == collection))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    /// Takes the caller that the layer before the routes has determined. Without that layer every
    /// request fails.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::Internal("a route asks who calls, but is open".to_owned()))
    }
}
