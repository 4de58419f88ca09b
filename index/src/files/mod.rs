//! Files that are trusted: checksums by blocks, writing, reading, and putting a directory in its place.

pub(crate) mod blocks;
pub(crate) mod checked;
pub(crate) mod staging;
pub(crate) mod tracked;
