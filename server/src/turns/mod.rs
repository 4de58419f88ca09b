//! How a validated request becomes a turn of the engine, and what happens until that ends.

mod constraint;
mod cutoff;
mod fork;
pub(crate) mod linking;
mod place;
mod request;
mod retrieval;
mod watch;

pub(crate) use constraint::RequestedConstraint;
pub(crate) use fork::Fork;
pub(crate) use request::{Instructions, TextRequest, TurnOptions, TurnRequest};
pub(crate) use retrieval::RequestedRetrieval;
pub(crate) use watch::{Finished, LiveTurn, TurnEvent};
