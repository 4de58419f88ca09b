//! Letters in disguise: how contents pass through a chat template, so that what somebody wrote can be told
//! from what the template wrote, whatever the template does with it.
//!
//! Every letter that occurs in the spelling of a control token is replaced, in contents, by a private-use
//! character that stands for it. A template may cut, join and repeat such a text. What comes out in disguise
//! was in a content, and **a control token is spelled only by letters without one**.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// Letters and what stands for each of them, for one render.
#[derive(Debug, Default)]
pub(super) struct Disguise {
    hidden: HashMap<char, char>,
    revealed: HashMap<char, char>,
    /// A character that stands for nothing and occurs in no text.
    mark: char,
}

/// A text without disguise, and which parts of it were in disguise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revealed {
    pub(super) text: String,
    /// Ranges of bytes that cover the text; `true` where it was in disguise. A letter that no control token has
    /// belongs to the part before it.
    pub(super) parts: Vec<(Range<usize>, bool)>,
}

/// Whether a character has no meaning of its own, so that it can stand for another.
fn is_private(c: char) -> bool {
    matches!(c, '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..)
}

/// The private characters of a text.
pub(super) fn private_letters(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|&c| is_private(c))
}

impl Disguise {
    /// A disguise for `letters` in which no character of `taken` is used; `None` if there are too few others.
    pub(super) fn new(letters: &BTreeSet<char>, taken: &BTreeSet<char>) -> Option<Self> {
        let mut free = ('\u{E000}'..=char::MAX)
            .filter(|&c| is_private(c) && !taken.contains(&c) && !letters.contains(&c));
        let mark = free.next()?;
        let pairs: Vec<_> = letters.iter().copied().zip(free).collect();
        (pairs.len() == letters.len()).then(|| Self {
            hidden: pairs.iter().copied().collect(),
            revealed: pairs
                .into_iter()
                .map(|(letter, stand_in)| (stand_in, letter))
                .collect(),
            mark,
        })
    }

    pub(super) fn mark(&self) -> char {
        self.mark
    }

    /// The text in disguise.
    pub(super) fn hide(&self, text: &str) -> String {
        text.chars().map(|c| self.stand_in(c)).collect()
    }

    /// A character in disguise, if it is a letter of a control token.
    pub(super) fn stand_in(&self, c: char) -> char {
        self.hidden.get(&c).copied().unwrap_or(c)
    }

    /// Whether a character is a letter of a control token, not in disguise.
    pub(super) fn is_letter(&self, c: char) -> bool {
        self.hidden.contains_key(&c)
    }

    /// The text without disguise.
    pub(super) fn reveal(&self, text: &str) -> String {
        text.chars().map(|c| self.letter(c)).collect()
    }

    /// The text without disguise, in parts.
    pub(super) fn parts(&self, text: &str) -> Revealed {
        let mut revealed = Revealed::default();
        let mut begun: Option<(usize, bool)> = None;
        for c in text.chars() {
            let kind = match (self.revealed.contains_key(&c), self.is_letter(c)) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            };
            let at = revealed.text.len();
            match (begun, kind) {
                (Some((start, was)), Some(is)) if was != is => {
                    revealed.parts.push((start..at, was));
                    begun = Some((at, is));
                }
                (Some(_), _) => {}
                (None, kind) => begun = Some((at, kind.unwrap_or(false))),
            }
            revealed.text.push(self.letter(c));
        }
        if let Some((start, was)) = begun {
            revealed.parts.push((start..revealed.text.len(), was));
        }
        revealed
    }

    /// A character without disguise.
    pub(super) fn letter(&self, c: char) -> char {
        self.revealed.get(&c).copied().unwrap_or(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disguise(taken: &str) -> Disguise {
        let letters = "<|>endRQ[]".chars().collect();
        Disguise::new(&letters, &taken.chars().collect()).unwrap()
    }

    #[test]
    fn what_is_hidden_is_revealed_and_spells_nothing_before() {
        let disguise = disguise("\u{E000}\u{E003}");
        let text = "a <|end|> [RQ] \u{E000}\u{E003}é";
        let hidden = disguise.hide(text);
        assert!(!hidden.contains(['<', '|', 'e', '[']), "{hidden}");
        assert_eq!(disguise.reveal(&hidden), text);
        assert!(!hidden.contains(disguise.mark()));
    }

    #[test]
    fn parts_say_who_wrote_them() {
        let disguise = disguise("");
        let text = format!("<|end|>\n{} a<", disguise.hide("<|end"));
        let revealed = disguise.parts(&text);
        assert_eq!(revealed.text, "<|end|>\n<|end a<");
        assert_eq!(
            revealed.parts,
            [(0..8, false), (8..15, true), (15..16, false)]
        );
        assert_eq!(disguise.parts(""), Revealed::default());
    }

    #[test]
    fn there_is_none_where_too_few_characters_are_left() {
        let taken: BTreeSet<char> = ('\u{E000}'..=char::MAX)
            .filter(|&c| is_private(c))
            .collect();
        assert!(Disguise::new(&['a'].into(), &taken).is_none());
    }
}
