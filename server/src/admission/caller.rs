//! Who asks, and what is theirs.

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

/// Whose a conversation is: a key's, by the key's name, or a server's that asks for no keys.
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

/// Who asks: a key, or anybody where the server asks for none.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) owner: Owner,
    pub(super) scopes: Vec<Scope>,
    /// The collections that there are for this caller; all where `None`.
    pub(super) collections: Option<Vec<String>>,
    /// Of the key.
    pub(super) validity: Validity,
}

/// Whether a key is still good. Clones tell of the same key.
#[derive(Debug, Clone)]
pub(crate) struct Validity(Option<watch::Receiver<()>>);

impl Validity {
    /// Lasts until what it comes with is dropped.
    pub(super) fn new() -> (watch::Sender<()>, Self) {
        let (valid, validity) = watch::channel(());
        (valid, Self(Some(validity)))
    }

    /// Of those who have no key that could be withdrawn.
    fn unlimited() -> Self {
        Self(None)
    }

    /// Waits until the key is withdrawn.
    pub(crate) async fn ended(&mut self) {
        match &mut self.0 {
            // Nothing is ever sent.
            Some(validity) => while validity.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

impl Caller {
    /// Everybody, on a server that asks for no keys.
    pub(crate) fn anybody() -> Self {
        Self {
            owner: Owner::default(),
            scopes: vec![Scope::Chat, Scope::Documents, Scope::Admin],
            collections: None,
            validity: Validity::unlimited(),
        }
    }

    /// Somebody who has shown no key where keys are asked for.
    pub(super) fn nobody() -> Self {
        Self {
            owner: Owner::default(),
            scopes: Vec::new(),
            collections: Some(Vec::new()),
            validity: Validity::unlimited(),
        }
    }

    /// Until when what this caller has begun may go on.
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

    /// What the layer before the routes has found out. Without that layer nothing is served.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::Internal("a route asks who calls, but is open".to_owned()))
    }
}
