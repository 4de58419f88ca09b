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

impl Passage {
    /// The digest of title and text, by which a passage that was changed is told from what was read.
    pub fn text_digest(&self) -> blake3::Hash {
        passage_digest(&self.title, &self.text)
    }
}

/// The digest of a passage's title and text.
pub fn passage_digest(title: &str, text: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // The length marks where the title ends and the text begins.
    hasher.update(&(title.len() as u64).to_le_bytes());
    hasher.update(title.as_bytes());
    hasher.update(text.as_bytes());
    hasher.finalize()
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
