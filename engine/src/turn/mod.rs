//! A turn as its caller sees it: what is asked for, what happens, when, and who finds passages.

pub(crate) mod events;
pub(crate) mod request;
pub(crate) mod retrieval;
pub(crate) mod timeline;
