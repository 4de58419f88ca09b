//! What a look at a whole collection in a database finds.

/// What [`crate::RemoteCollection::verify`] has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteVerification {
    /// Passages, and vectors.
    pub counts: (u64, u64),
    /// Vectors that were looked at.
    pub sample: usize,
    /// The share of the ten nearest by an exact scan that a search through the graph finds for them.
    pub recall_at_10: f64,
    /// What is wrong.
    pub findings: Vec<String>,
}
