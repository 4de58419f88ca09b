//! What the manifest records of each file.

use serde::{Deserialize, Serialize};

/// Length and checksum of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Length in bytes.
    pub length: u64,
    /// blake3, hexadecimal.
    pub blake3: String,
}
