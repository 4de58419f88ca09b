//! Citations: which part of an answer came from which passage.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A mark on a part of `content`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Annotation {
    /// What kind of mark it is.
    #[serde(rename = "type")]
    pub kind: AnnotationType,
    /// The passage, and the text that followed it.
    pub url_citation: UrlCitation,
}

/// The kinds of annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnotationType {
    /// A citation of a passage.
    UrlCitation,
}

/// The text that was written after a passage was read. All four keys are always there: clients drop
/// a citation that lacks one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UrlCitation {
    /// Where that text starts in `content`, in Unicode characters from 0.
    pub start_index: usize,
    /// Where it ends, exclusive. Equal to `start_index` when no text followed the passage.
    pub end_index: usize,
    /// The passage's own URL, else `onegen://passage/` and its id, percent-encoded.
    #[schema(example = "https://en.wikipedia.org/wiki/Peru")]
    pub url: String,
    /// The passage's title, else its id.
    #[schema(example = "Peru")]
    pub title: String,
}

impl From<UrlCitation> for Annotation {
    fn from(url_citation: UrlCitation) -> Self {
        Self {
            kind: AnnotationType::UrlCitation,
            url_citation,
        }
    }
}
