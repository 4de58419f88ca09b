//! OneGen's server: OpenAI's chat API over the engine and its collections of passages, with the retrievals shown.
//!
//! [`App::load`] reads a [`Config`] and puts model, collections and engine together; [`serve`] answers
//! until it is told to stop. Each room answers one question, and imports point from the later rooms of
//! this list to the earlier ones:
//!
//! * `wire`: how bodies, parameters and errors are read and written;
//! * `config`: the settings of the operator;
//! * `traces`, `metrics`: what is observed of requests;
//! * `shutdown`: whether the server still accepts requests, and how many are in progress;
//! * `admission`: who may send which requests, and how many;
//! * `collections`: which indexes are searched;
//! * `conversations`: what is stored of past turns;
//! * `documents`: how documents are changed, and what follows for conversations;
//! * `recordings`: how a lost stream is resumed;
//! * `app`: all of these, assembled once;
//! * `turns`: how a request becomes a turn of the engine;
//! * `routes`: one module for each noun of the API;
//! * `serving`: the router, the OpenAPI document, TLS, the page and the documentation;
//! * `terminal`: a client of a running server.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod admission;
mod app;
mod certificate;
mod collections;
mod config;
mod conversations;
mod documents;
mod metrics;
mod recordings;
mod routes;
mod served_model;
mod serving;
mod shutdown;
mod terminal;
mod traces;
mod turns;
mod wire;

pub use admission::{KeyFileError, NewKey, Scope};
pub use app::App;
pub use certificate::TlsError;
pub use collections::{Collection, Collections, IndexingProgress};
pub use config::{
    AccessConfig, CapacityConfig, CollectionPath, Config, ConfigError, Configuration,
    ForwardedHeader, LimitsConfig, ListenConfig, LogFormat, ModelConfig, ProxyConfig, StreamConfig,
    TraceConfig, TraceConfigError,
};
pub use serving::{openapi, serve, while_loading};
pub use terminal::{ChatConfig, chat};
