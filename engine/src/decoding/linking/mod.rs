//! Linking: a text is copied, and mentions of entities in it are marked.
//!
//! A linking model writes the text once more, with `<MENTION>` and `</MENTION>` around each mention and
//! `[LK]` behind it, whose hidden state is the mention's embedding. Nothing else can come out: what may
//! follow is decided byte by byte from the text itself ([`MarkedCopy`]), so a mention's offsets are exact and
//! the text is what it was.

mod choice;
mod copy;
mod words;

pub(crate) use copy::MarkedCopy;

/// A mention that was marked, as soon as its embedding is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// The byte of the text where it starts, at a character's border.
    pub start: usize,
    /// The byte after its last one. No white space stands at either end.
    pub end: usize,
    /// The state at its `[LK]`: `hidden_size` numbers, of length 1, to be compared with those of
    /// [`crate::Model::embed_passages`].
    pub embedding: Vec<f32>,
}
