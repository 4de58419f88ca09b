//! Entity linking: the model writes a text again and marks the names in it, and its state at `[LK]` after
//! each name finds the thing that is meant.
//!
//! A lesson is a few invented [`lesson_entities`] and a [`text`] in the sentences of [`frames`] that mentions some of
//! them; the others are there to be taken for them: a river, a town and a person of one name. What counts as
//! a mention is in [`kinds`].

pub mod course;
pub mod evaluate;
pub mod frames;
pub mod gazetteer;
pub mod kinds;
pub mod lesson_entities;
pub mod scramble;
pub mod text;

pub use course::Course;
pub use text::{Mention, Text};

#[cfg(test)]
mod tests;
