//! Entity linking: the model copies a text and marks the names in it, and its state at `[LK]` after each
//! name finds the entity.
//!
//! A lesson is a few invented [things](lesson_entities) and a [`text`], made of the sentences of [`frames`],
//! that mentions some of them. The others can be confused with them: a river, a town and a person of the
//! same name. [`kinds`] defines what counts as a mention.

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
