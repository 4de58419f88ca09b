//! Holds no code.
//!
//! Cargo builds a package anew for every set of features that is asked of it and of what it depends
//! on, and which set that is depends on the packages selected (`-p`, `--workspace`, tests). The engine
//! depends on this crate, and this crate asks for everything that any member asks for: so all
//! selections share one build of mistralrs-core, which takes minutes.
