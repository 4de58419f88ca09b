//! The lines of the published files.

use onegen_engine::Role;
use serde::Deserialize;

/// A line of the records.
#[derive(Deserialize)]
pub(super) struct RecordLine {
    pub(super) messages: Vec<MessageLine>,
}

#[derive(Deserialize)]
pub(super) struct MessageLine {
    pub(super) role: Role,
    pub(super) content: String,
    #[serde(default)]
    pub(super) positive: Vec<Option<References>>,
    #[serde(default)]
    pub(super) negative: Vec<Option<References>>,
}

/// A line of the documents.
#[derive(Deserialize)]
pub(super) struct DocumentLine {
    pub(super) uid: Uid,
    pub(super) messages: Vec<MessageLine>,
}

/// The documents that a retrieval token should find, or should not.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum References {
    Many(Vec<Uid>),
    One(Uid),
}

/// A name, which may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Uid {
    Number(u64),
    Text(String),
}

impl Uid {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl References {
    /// The names, in order.
    pub(super) fn into_texts(self) -> Vec<String> {
        let all = match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        };
        all.into_iter().map(Uid::into_text).collect()
    }
}
