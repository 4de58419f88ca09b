//! The wire format: reads bodies and parameters, writes errors and citations. This room imports from
//! no other room.

pub(crate) mod blocking;
pub(crate) mod citations;
pub(crate) mod clock;
pub(crate) mod errors;
pub(crate) mod extract;
pub(crate) mod json;
pub(crate) mod json_text;
pub(crate) mod messages;
pub(crate) mod page;
pub(crate) mod schema_rules;
pub(crate) mod shape;
pub(crate) mod unsupported;
pub(crate) mod until_sent;
