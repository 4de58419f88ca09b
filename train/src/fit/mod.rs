//! `onegen-train fit`: a model that exists learns to retrieve from questions and passages.
//!
//! [`config`] is what a run is told, [`data`] what it learns from, laid out as [`mod@pack`]s; [`decoder`] goes
//! forward and backward with hand-written gradients, since a frozen weight needs none and most states need not be
//! kept; [`loss`] judges, [`mod@run`] is the loop, [`adapter`] what is left of it.

pub mod adapter;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod decoder;
pub mod load;
pub mod loss;
pub mod mine;
pub mod pack;
pub mod parameters;
pub mod product;
pub mod run;
pub mod step;

mod attention;
mod curves;
mod elementwise;
mod exam;
mod linear;
