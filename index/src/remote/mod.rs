//! Collections on a database that others run: PostgreSQL with pgvector, or Milvus.
//!
//! A [`RemoteCollection`] is searched and changed as an index in a directory is, from any thread; each call waits for
//! the database, at most until its deadline, is tried again, and is not made while the database is known to be away
//! (`calls.rs`). A filter means the same everywhere: a passage's metadata are terms (`terms.rs`), on which each
//! database has conditions of its own. [`crate::Store`] is a directory or one of these.

mod address;
mod calls;
mod circuit;
mod collection;
mod description;
mod milvus;
mod nearest;
mod postgres;
mod push;
mod pushing;
mod terms;
mod verification;

pub use self::address::{RemoteAddress, without_password};
pub use self::calls::{RemoteOptions, RemoteStats};
pub use self::collection::RemoteCollection;
pub use self::milvus::MilvusAddress;
pub use self::postgres::{PostgresAddress, PostgresLink};
pub use self::push::push;
pub use self::pushing::PushProgress;
pub use self::verification::RemoteVerification;
