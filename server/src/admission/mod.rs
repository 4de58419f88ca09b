//! Who may send which requests, and how many.

pub(crate) mod access;
mod bounds;
mod caller;
pub(crate) mod client_address;
mod clients;
mod keys;
pub(crate) mod limits;
pub(crate) mod origins;
mod shares;

pub(crate) use access::Access;
pub(crate) use bounds::Bounds;
pub use caller::Scope;
pub(crate) use caller::{Caller, Owner, Validity};
pub(crate) use client_address::ClientAddress;
pub use keys::{KeyFileError, NewKey};
pub(crate) use limits::{Limits, Ticket};
pub(crate) use origins::Origins;
pub(crate) use shares::first_to_go;
