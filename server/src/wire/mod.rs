//! What goes over the wire: bodies and parameters as they are read, errors and citations as they are
//! written. This room knows no other.

pub(crate) mod blocking;
pub(crate) mod citations;
pub(crate) mod clock;
pub(crate) mod errors;
pub(crate) mod extract;
pub(crate) mod json;
pub(crate) mod messages;
pub(crate) mod schema_rules;
pub(crate) mod shape;
pub(crate) mod unsupported;
pub(crate) mod until_sent;
