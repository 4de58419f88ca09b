//! Reads the source of a crate and finds out which file imports from which.
//!
//! `rooms.toml` names the top-level modules of each crate, from the ground up. A module may import from those before
//! it only, and no circle of imports may hold more than two files.

pub mod circles;
pub mod imports;
pub mod length;
pub mod module;
pub mod rooms;
