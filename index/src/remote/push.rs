//! From an index in a directory to a collection in a database.

use super::address::RemoteAddress;
use super::calls::RemoteOptions;
use super::collection::{Engine, RemoteCollection};
use super::pushing::PushProgress;
use super::{milvus, postgres};
use crate::error::IndexError;
use crate::live::index::Index;

/// Puts the passages of an index into a collection that does not exist yet, with their vectors as they are, and waits
/// until a graph stands over them. A push that was interrupted goes on when the same index is pushed again.
///
/// # Errors
/// [`IndexError::Remote`] if the collection holds something else, or the database has no vectors of this width;
/// [`IndexError::NotStorable`] for a passage that it cannot store; [`IndexError::Unreachable`]; those of reading the
/// index.
pub fn push(
    index: &Index,
    address: &RemoteAddress,
    options: RemoteOptions,
    on_progress: impl FnMut(PushProgress),
) -> Result<RemoteCollection, IndexError> {
    RemoteCollection::new(match address {
        RemoteAddress::Postgres(address) => {
            Engine::Postgres(postgres::push(index, address, options, on_progress)?)
        }
        RemoteAddress::Milvus(address) => {
            Engine::Milvus(milvus::push(index, address, options, on_progress)?)
        }
    })
}
