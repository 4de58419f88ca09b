//! Collections in tables of PostgreSQL, searched by pgvector.

mod address;
mod collection;
mod conditions;
mod link;
mod push;
mod schema;
mod statements;

pub use self::address::PostgresAddress;
pub(super) use self::collection::PostgresCollection;
pub use self::link::Link as PostgresLink;
pub(super) use self::push::push;
