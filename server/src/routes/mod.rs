//! The routes, one file a noun.

pub(crate) mod admin;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod conversations;
pub(crate) mod documents;
pub(crate) mod embeddings;
pub(crate) mod entities;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod stream;
pub(crate) mod vector_stores;
