//! The routes, one file a noun.

pub(crate) mod admin;
pub(crate) mod chat;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod stream;
