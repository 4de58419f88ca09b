//! A passage that was found, and its ids in a splice.

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// The passage's id in its collection.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its text.
    pub text: String,
    /// Where it comes from.
    pub url: Option<String>,
    /// Cosine similarity of its embedding and the query embedding, in -1..=1.
    pub score: f32,
}

/// The ids that a passage adds to a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpliceIds {
    /// The control token before the passage.
    pub open: u32,
    /// The passage as plain text.
    pub passage: Vec<u32>,
    /// `[RD]`, which ends a passage block; only with block attention.
    pub end: Option<u32>,
    /// The control token after it.
    pub close: u32,
}

impl SpliceIds {
    /// How many ids there are, markers included.
    #[allow(clippy::len_without_is_empty)] // There are always two markers.
    pub fn len(&self) -> usize {
        self.passage.len() + 2 + usize::from(self.end.is_some())
    }

    /// All ids in order.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len());
        ids.push(self.open);
        ids.extend_from_slice(&self.passage);
        ids.extend(self.end);
        ids.push(self.close);
        ids
    }
}
