//! How far a corpus was read. An interrupted build continues from there.

use serde::{Deserialize, Serialize};

/// How much of a corpus was indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ingested {
    /// Records read, bad ones included.
    pub records: u64,
    /// Records that were skipped.
    pub bad_records: u64,
    /// Documents that became passages.
    pub documents: u64,
    /// Their passages.
    pub passages: u64,
}
