//! The server over real HTTP, as one program: linking one of these for each file took longer than all tests.
//! A new file is named here.

mod common;

mod access;
mod almanac;
mod attack;
mod bad_input;
mod chat;
mod collections;
mod completions;
mod conversation_routes;
mod conversations;
mod documents;
mod embeddings;
mod exam;
mod forgetting;
mod front_line;
mod full_disk;
mod http2;
mod kept_documents;
mod kept_passages;
mod keys;
mod kills;
mod limits;
mod linking;
mod loadtest;
mod once_only;
mod operations;
mod page;
mod proxies;
mod pull;
mod remote;
mod response_metrics;
mod responses;
mod restart;
mod running;
mod shared_conversations;
mod smol;
mod stored_responses;
mod streams;
mod terminal;
mod traces;
mod ui_streams;
mod vector_stores;
