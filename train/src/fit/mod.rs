//! `onegen-train fit`: trains an existing model to retrieve, from questions and passages.
//!
//! [`config`] is the configuration of a run. [`data`] reads its data and lays them out as [`mod@pack`]s.
//! [`decoder`] computes forward and backward passes with hand-written gradients, because a frozen weight needs no
//! gradient and most states need not be kept. [`loss`] computes the losses, [`mod@run`] is the loop, and
//! [`adapter`] writes the result.

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
