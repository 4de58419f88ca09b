//! Finds a model by its name, and fetches the base that an adapter needs.
//!
//! An adapter (such as `models/smol`) is a few megabytes that change a base model. The base is made by
//! others and does not come with the source. `pull` fetches it once, checks it against the checksum that
//! is pinned here, and keeps it in the data directory.

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

/// The default data directory of all programs.
pub const DEFAULT_DATA_DIR: &str = ".data";
