//! Texts as parts that the model links at once.

use std::ops::Range;
use std::sync::Arc;

use onegen_engine::{ChatMessage, Model, Role, TokensError};
use onegen_index::{Document, Splitter};
use onegen_proto::OffsetUnit;

use super::FIELDS;
use super::offsets::Offsets;
use crate::wire::errors::ApiError;

/// A part of a text. It ends where a sentence does, unless that is too long.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Which of the request's texts.
    pub(super) index: usize,
    /// All of that text.
    pub(super) text: Arc<str>,
    pub(super) bytes: Range<usize>,
    /// From where its offsets are counted.
    pub(super) offsets: Offsets,
}

/// The parts of all texts in order; none of a text of white space alone.
///
/// # Errors
/// The model links nothing, or its template refuses texts.
pub(super) fn parts(
    texts: Vec<String>,
    unit: OffsetUnit,
    model: &Model,
) -> Result<Vec<Part>, ApiError> {
    let splitter = Splitter::new(
        most_tokens(model).map_err(|error| FIELDS.tokens_error(error))?,
        0,
    );
    let splitter = splitter.map_err(|error| ApiError::Internal(error.to_string()))?;
    let mut parts = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        let mut offsets = Offsets::new(unit);
        let whole: Arc<str> = text.as_str().into();
        for bytes in ranges(&splitter, text, model) {
            offsets.at(&whole, bytes.start);
            if !whole[bytes.clone()].trim().is_empty() {
                parts.push(Part {
                    index,
                    text: whole.clone(),
                    bytes,
                    offsets: offsets.clone(),
                });
            }
        }
    }
    Ok(parts)
}

/// Tokens of a text that are linked at once: what the model says, or what its context holds of a prompt, a
/// copy and as many tokens again for marks.
fn most_tokens(model: &Model) -> Result<usize, TokensError> {
    let tokens = model.tokens();
    let most = tokens.linking_config()?.max_text_tokens.get();
    let text = "a";
    let prompt = tokens.encode_chat(&[ChatMessage::new(Role::User, text)])?;
    let frame = prompt.len().saturating_sub(tokens.count(text));
    let room = model.max_positions().saturating_sub(frame) / 3;
    Ok(most.min(room).max(1))
}

/// Where the parts of a text stand, in bytes.
fn ranges(splitter: &Splitter, text: String, model: &Model) -> Vec<Range<usize>> {
    let document = Document {
        id: String::new(),
        title: String::new(),
        text: text.clone(),
        url: None,
        metadata: None,
        sentences: None,
    };
    let split = splitter.split(document, |text| model.tokens().count(text));
    // Both count the same position, in bytes and in characters.
    let (mut byte, mut character) = (0, 0);
    let each = split.into_iter().map(|split| {
        let start = split.passage.part.map_or(0, |part| part.start);
        let between = text[byte..].chars().take(start - character);
        byte += between.map(char::len_utf8).sum::<usize>();
        character = start;
        byte..byte + split.passage.text.len()
    });
    each.collect()
}
