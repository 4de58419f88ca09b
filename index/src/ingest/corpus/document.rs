//! What a corpus holds: documents.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::segment::passages::Passage;

/// A text of a corpus, before it is split into passages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    /// Unique in its corpus.
    pub id: String,
    /// Title; may be empty.
    pub title: String,
    /// The text.
    pub text: String,
    /// Where it comes from.
    pub url: Option<String>,
    /// Anything else that is known about it.
    pub metadata: Option<Map<String, Value>>,
    /// The text's sentences as ranges of its bytes, where the corpus says what they are.
    pub sentences: Option<Vec<Range<usize>>>,
}

impl From<Document> for Passage {
    /// The document as one passage.
    fn from(document: Document) -> Self {
        Self {
            id: document.id,
            title: document.title,
            text: document.text,
            url: document.url,
            metadata: document.metadata,
            part: None,
        }
    }
}
