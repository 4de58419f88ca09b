//! Sentences that mention things. `{n}` is the thing that the sentence is about. `{capital}` is one of
//! its attributes, a mention if the attribute names a thing, and plain text otherwise. `{@city}` is any
//! thing of a kind. `{=month}` is a word that is not a mention, even if it begins with a capital
//! letter.

mod table;

use crate::phrases::Wording;
use table::FRAMES;

/// Sentences about a kind: those for training, and held-out ones.
pub struct Frames {
    kinds: &'static [&'static str],
    known: &'static [&'static str],
    held_out: &'static [&'static str],
}

/// Every sentence of `wording` about `kind`.
pub fn about(kind: &str, wording: Wording) -> impl Iterator<Item = &'static str> {
    FRAMES
        .iter()
        .filter(move |frames| frames.kinds.contains(&kind))
        .flat_map(move |frames| frames.worded(wording))
        .copied()
}

/// Every sentence of `wording` that mentions nothing.
pub fn about_nothing(wording: Wording) -> &'static [&'static str] {
    NOTHING.worded(wording)
}

impl Frames {
    fn worded(&self, wording: Wording) -> &'static [&'static str] {
        match wording {
            Wording::Known => self.known,
            Wording::Unknown => self.held_out,
        }
    }
}

const NOTHING: Frames = Frames {
    kinds: &[],
    known: &[
        "{=first} met {=first} on {=day}.",
        "My aunt {=first} bakes {=word} bread every {=day}.",
        "In {=month} the {=adjective} {=noun} fell.",
        "The {=noun} was {=adjective}, and nobody came.",
        "I saw {=first} at the market in {=month}.",
        "We will know more by {=day}.",
        "Please send the {=word} to {=first} before {=day}.",
        "{=first} and {=first} have two children.",
        "It rained from {=month} to {=month}.",
        "\"Where is the {=noun}?\" asked {=first}.",
        "Doctor {=first} closed the {=noun} and went home.",
        "{=first} is late again.",
        "The {=people} sailors sang about {=thing}.",
        "Uncle {=first} sold his {=noun} in {=year}.",
        "A {=people} proverb speaks of the {=adjective} {=noun}.",
        "Last {=day} the {=word} was cold.",
        "Our teacher, {=first}, likes {=thing}.",
        "At {=holiday} we eat {=thing} and {=word}.",
        "I do not know what a {=word} is.",
        "Captain {=first} lost {=count} men in {=month} {=year}.",
        "He waited for {=first} until {=day}, but I left.",
        "Parliament met on the first {=day} of {=month}.",
        "They say that {=first} never learnt to read.",
        "Thanks, {=first}, that was very kind.",
        "Yesterday {=first} found an old {=noun} under the {=noun}.",
        "The Internet was slow on {=day}.",
        "The price of {=thing} rose by {=count} percent.",
        "It was a {=adjective} day for {=thing} and for {=first}.",
        "Her brother {=first} repairs {=thing}.",
        "What did {=first} say on {=day}?",
        "Mr {=first} and Mrs {=first} came with the {=noun}.",
        "Nobody had told the {=people} king about the {=noun}.",
    ],
    held_out: &[
        "On {=day} my neighbour {=first} bought a {=adjective} {=noun}.",
        "{=first} laughed when the {=word} broke.",
        "Since {=month}, {=first} has been collecting {=thing}.",
        "The {=people} cook put {=word} into the soup.",
        "Tell {=first} that I will call on {=day}.",
        "During {=holiday} the {=noun} stays closed.",
        "Aunt {=first} wrote a letter about {=thing}.",
        "There were {=count} chairs and one {=adjective} {=noun}.",
    ],
};

/// Words with which a sentence may begin.
pub fn openers(wording: Wording) -> &'static [&'static str] {
    match wording {
        Wording::Known => &[
            "However, ",
            "In fact, ",
            "As {=first} said, ",
            "In {=year}, ",
            "Today, ",
            "Since {=month}, ",
            "According to {=first}, ",
            "After {=holiday}, ",
            "Some say that ",
            "It is well known that ",
            "I read that ",
            "{=first} told me that ",
            "Later that {=day}, ",
        ],
        Wording::Unknown => &[
            "As everybody knows, ",
            "On {=day}, ",
            "Experts believe that ",
            "By {=month} {=year}, ",
        ],
    }
}

/// Words between two clauses.
pub fn joints(wording: Wording) -> &'static [&'static str] {
    match wording {
        Wording::Known => &[", and ", ", but ", "; ", " while ", " because ", ", so "],
        Wording::Unknown => &[", although ", " and ", ": "],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linking::kinds;

    #[test]
    fn no_held_out_sentence_is_ever_taught() {
        let all = || FRAMES.iter().chain([&NOTHING]);
        let known: Vec<_> = all().flat_map(|frames| frames.known).collect();
        for sentence in all().flat_map(|frames| frames.held_out) {
            assert!(!known.contains(&sentence), "{sentence} is taught");
        }
    }

    #[test]
    fn every_kind_has_sentences_of_both_wordings() {
        for kind in kinds::all() {
            for wording in [Wording::Known, Wording::Unknown] {
                assert!(about(kind.name, wording).count() > 1, "{}", kind.name);
            }
        }
    }
}
