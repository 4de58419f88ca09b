//! OneGen's server: OpenAI's chat API over the engine and its collections of passages, with the retrievals shown.
//!
//! [`App::load`] reads a [`Config`] and puts model, collections and engine together; [`serve`] answers
//! until it is told to stop. The life of a request: `json` reads the body, `routes::chat`
//! validates it into a typed request once, `turn` finds the conversation that it continues and hands
//! it to the engine, and what the engine tells becomes one JSON answer or a stream of events.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod app;
mod citations;
mod collections;
mod config;
mod constraint;
mod conversations;
mod errors;
mod indexing;
mod json;
mod metrics;
mod openapi;
mod page;
mod retrieval;
mod router;
mod routes;
mod serve;
mod terminal;
mod transcript_files;
mod turn;

pub use app::App;
pub use collections::{Collection, Collections};
pub use config::{CollectionPath, Config, LimitsConfig, ListenConfig, ModelConfig};
pub use openapi::openapi;
pub use serve::serve;
pub use terminal::{ChatConfig, chat};
