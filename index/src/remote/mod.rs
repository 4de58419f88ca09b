//! Collections on a database that others run: PostgreSQL with pgvector.
//!
//! [`Link`] is how any table there is asked: within a deadline, tried again, and not at all while the database is away.
//! A [`RemoteCollection`] is searched and changed as an index in a directory is, from any thread; each call waits for
//! the database, at most until its deadline. [`crate::Store`] is either of the two.

mod address;
mod circuit;
mod collection;
mod link;
mod push;
mod schema;
mod statements;
mod terms;

pub use self::address::{RemoteAddress, without_password};
pub use self::collection::{RemoteCollection, RemoteVerification};
pub use self::link::{Link, RemoteOptions, RemoteStats};
pub use self::push::{PushProgress, push};
