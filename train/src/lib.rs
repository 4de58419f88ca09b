//! The trainer of OneGen models, including the shipped one.
//!
//! A model learns to write and to retrieve in one forward pass: cross-entropy where it writes,
//! contrastive loss where it retrieves ([`loss`]). The almanac model learns from an invented world
//! ([`world`], [`dialogue`], [`phrases`]) in a fixed order of [`lessons`]; [`trainer`] is the loop, and
//! [`mod@evaluate`] measures the result by generating with the engine that serves it. The model that
//! links names to entities begins with the almanac's weights ([`linking`]).

pub mod almanac;
pub mod batch;
pub mod bm25;
pub mod convert;
pub mod dialogue;
pub mod evaluate;
pub mod exam;
pub mod export;
pub mod fit;
pub mod lessons;
pub mod linking;
pub mod loss;
pub mod model;
pub mod ops;
pub mod optimiser;
pub mod phrases;
pub mod tokenizer;
pub mod trainer;
pub mod world;
