//! The engine's tests as one program: linking one of these for each file took longer than all tests. A new file is
//! named here. What measures memory is a program of its own.

#[path = "../common/mod.rs"]
mod common;

mod adapter;
mod blocks;
mod constraint;
mod conversations;
mod damaged_directory;
mod drafts;
mod embed;
mod engine;
mod gguf;
mod gguf_tokenizer;
mod invariants;
mod kept_passages;
mod kv_types;
mod linking;
mod load;
mod logprobs;
mod parity;
mod reference;
mod schedules;
mod store;
mod templates;
mod timeline;
mod tokens;
