//! OneGen's server: OpenAI's chat API over the engine and its collections of passages, with the retrievals shown.
//!
//! [`App::load`] reads a [`Config`] and puts model, collections and engine together; [`serve`] answers
//! until it is told to stop. The life of a request: `access` finds out who asks and whether they may,
//! `limits` whether it is too much, `json` reads the body, `routes::chat`
//! validates it into a typed request once, `turn` finds the conversation that it continues and hands
//! it to the engine, and what the engine tells becomes one JSON answer or a stream of events.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod access;
mod app;
mod blocking;
mod citations;
mod client_address;
mod collections;
mod config;
mod config_file;
mod constraint;
mod conversations;
mod docs;
mod documents;
mod embedded;
mod embedding;
mod errors;
mod extract;
mod forgetting;
mod fork;
mod indexing;
mod items;
mod json;
mod limits;
mod linking;
mod messages;
mod metrics;
mod openapi;
mod page;
mod past_retrievals;
mod response_writer;
mod retrieval;
mod router;
mod routes;
mod schema_rules;
mod serve;
mod stored_responses;
mod streams;
mod terminal;
mod tls;
mod traces;
mod transcript_files;
mod turn;
mod unsupported;
mod until_sent;

pub use access::{KeyFileError, NewKey, Scope};
pub use app::App;
pub use client_address::{ForwardedHeader, ProxyConfig};
pub use collections::{Collection, Collections};
pub use config::{
    AccessConfig, CollectionPath, Config, LimitsConfig, ListenConfig, LogFormat, ModelConfig,
    StreamConfig, TrafficConfig,
};
pub use config_file::{ConfigError, Configuration};
pub use openapi::openapi;
pub use serve::serve;
pub use terminal::{ChatConfig, chat};
pub use tls::TlsError;
pub use traces::{TraceConfig, TraceConfigError};
