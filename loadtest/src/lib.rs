//! Load for servers that speak OpenAI's chat API, and figures of how they bear it.
//!
//! The load is *open-loop*: conversations begin when the plan says so, whether or not the server has answered
//! the earlier ones, as people do. A latency counts from the moment at which its request was due, so that a server that
//! makes requests wait cannot hide it. Nothing here knows the server but its HTTP interface.

pub mod baseline;
pub mod client;
pub mod command;
pub mod compare;
pub mod drive;
pub mod figures;
pub mod idle;
pub mod plan;
pub mod record;
pub mod report;
pub mod sweep;
pub mod view;
