//! Collections in Milvus 2.3 or later, asked over gRPC.

mod address;
mod changes;
mod collection;
mod expressions;
mod facts;
mod link;
mod messages;
mod push;
mod reading;
mod rows;
mod schema;
#[cfg(all(test, target_os = "linux"))]
mod tests;

pub use self::address::MilvusAddress;
pub(super) use self::collection::MilvusCollection;
pub(super) use self::push::push;
