//! How people ask: frames of questions for every attribute, including held-out ones, and small
//! talk.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::world::kinds::{Attribute, Kind, Naming};

/// Whether questions use the wordings of training, or only wordings that training never shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wording {
    /// The wordings that training shows
    Known,
    /// The held-out ones
    Unknown,
}

const FRAMES: &[&str] = &[
    "What is the {a} of {n}?",
    "What is the {a} of {n}?",
    "What is the {a} of {n}?",
    "What's the {a} of {n}?",
    "What was the {a} of {n}?",
    "{n}'s {a}?",
    "What is {n}'s {a}?",
    "Tell me the {a} of {n}.",
    "Name the {a} of {n}.",
    "I want to know the {a} of {n}.",
    "Can you tell me the {a} of {n}?",
    "{a} of {n}?",
    "{a} of {n}",
    "Do you know the {a} of {n}?",
    "Please tell me {n}'s {a}.",
    "Give me the {a} of {n}.",
    "Which {a} does {n} have?",
    "{n}: {a}?",
    "{n} {a}",
    "Say, what is the {a} of {n}?",
    "I forgot the {a} of {n}.",
    "The {a} of {n}, please.",
    "Can you tell me what the {a} of {n} is?",
    "Do you know what {n}'s {a} is?",
    "Find the {a} of {n}.",
    "Hi, what is the {a} of {n}?",
    "I would like to know the {a} of {n}.",
    "Could you tell me the {a} of {n}?",
    "Show me the {a} of {n}.",
    "And what is the {a} of {n}?",
    "So what is {n}'s {a}?",
    "Does {n} have a {a}?",
    "Give me {n}'s {a}.",
    "Let me know the {a} of {n}.",
    "Search for the {a} of {n}.",
    "I wonder what the {a} of {n} is.",
    "Quick question: what is the {a} of {n}?",
    "Please find {n}'s {a}.",
    "Tell me what the {a} of {n} is.",
    "I am curious about the {a} of {n}.",
    "Could you find {n}'s {a}?",
    "Would you tell me the {a} of {n}?",
    "What might be the {a} of {n}?",
];
const UNKNOWN_FRAMES: &[&str] = &[
    "Could you give me the {a} of {n}?",
    "I need the {a} of {n}.",
    "Please name the {a} of {n}.",
    "Look up {n}'s {a}.",
    "What would be the {a} of {n}?",
    "I am looking for the {a} of {n}.",
    "Any idea what the {a} of {n} is?",
];
const FOLLOW_UPS: &[&str] = &[
    "And its {a}?",
    "And its {a}?",
    "Give me its {a}.",
    "I want its {a}.",
    "Can you tell me its {a}?",
    "Also, what is its {a}?",
    "Please tell me its {a}.",
    "I would like to know its {a}.",
    "Could you tell me the {a}?",
    "Now what is its {a}?",
    "What is its {a}?",
    "And the {a}?",
    "What about the {a}?",
    "What about its {a}?",
    "Its {a}?",
    "Tell me its {a}.",
    "And what is its {a}?",
    "What's its {a}?",
    "Do you know its {a}?",
    "What is the {a}?",
    "And what is the {a}?",
    "The {a}?",
    "What was its {a}?",
    "Then its {a}?",
    "And what about its {a}?",
    "Please give me its {a}.",
    "Also the {a}.",
    "And then the {a}?",
    "Let me know its {a}.",
    "I forgot its {a}.",
    "So what is its {a}?",
    "Name its {a}.",
    "Next, its {a}.",
    "Show me its {a}.",
    "And do you know its {a}?",
    "Would you tell me its {a}?",
    "Now the {a}, please.",
    "I wonder about its {a}.",
    "I also want its {a}.",
    "Now tell me its {a}.",
    "Also tell me the {a}.",
    "Can I have its {a}?",
];
const UNKNOWN_FOLLOW_UPS: &[&str] = &[
    "How about its {a}?",
    "Also its {a}?",
    "Could you give me its {a}?",
    "Now its {a}.",
    "I also need its {a}.",
    "How about the {a}?",
];
const SAME_AGAIN: &[&str] = &[
    "And {n}?",
    "What about {n}?",
    "And of {n}?",
    "And for {n}?",
    "The same for {n}?",
    "And that of {n}?",
    "And what about {n}?",
    "What of {n}?",
    "Also for {n}?",
    "Do the same for {n}.",
    "Next: {n}.",
    "And now {n}?",
    "Then {n}?",
    "{n}?",
    "And with {n}?",
    "Or {n}?",
    "The same question for {n}.",
    "And that of {n}, please.",
    "{n} too?",
    "And in {n}?",
    "Same for {n}",
    "Now {n}.",
    "What is it for {n}?",
    "Tell me that of {n} too.",
    "Then what about {n}?",
    "How about {n}?",
    "And how about {n}?",
    "How about that of {n}?",
    "And how is it with {n}?",
    "As for {n}?",
    "How does it look for {n}?",
    "Tell me for {n}.",
];
const UNKNOWN_SAME_AGAIN: &[&str] = &[
    "Now for {n}.",
    "And in the case of {n}?",
    "And regarding {n}?",
];
const DESCRIBE: &[&str] = &[
    "Tell me about {n}.",
    "What is {n}?",
    "What do you know about {n}?",
    "Who or what is {n}?",
    "Say something about {n}.",
    "Who is {n}?",
    "Who was {n}?",
    "What's {n}?",
    "Tell me something about {n}.",
    "What can you tell me about {n}?",
    "I want to know about {n}.",
    "Give me a short note on {n}.",
    "What do we know about {n}?",
    "Explain {n}.",
    "About {n}",
    "Information on {n}, please.",
    "Do you know {n}?",
    "Have you heard of {n}?",
    "I would like to read about {n}.",
    "Can you tell me about {n}?",
    "Give a description of {n}.",
    "Please describe {n} to me.",
    "{n}",
];
const UNKNOWN_DESCRIBE: &[&str] = &["Describe {n}.", "Can you tell me something about {n}?"];

/// Small talk: messages, and the model's reply without a retrieval.
const SMALL_TALK: &[(&[&str], &str)] = &[
    (
        &[
            "Hello!",
            "Hello",
            "Hi!",
            "Hi",
            "Hey",
            "Hey!",
            "Good morning!",
            "Good evening!",
            "Good day",
            "Hello there",
            "Greetings",
            "Hello you",
            "Morning!",
            "Good afternoon",
            "Hi everyone",
            "Hello again",
            "Hey you",
        ],
        "Hello! Ask me about a country, an element, a book or a planet.",
    ),
    (
        &[
            "Thanks!",
            "Thank you",
            "Thank you!",
            "Thanks a lot",
            "Thank you very much",
            "Many thanks",
            "Great, thanks",
            "Thanks for that",
            "Cheers",
            "Nice, thank you",
            "Perfect, thanks!",
        ],
        "You are welcome.",
    ),
    (
        &[
            "How are you?",
            "How are you doing?",
            "How is it going?",
            "How do you do?",
            "Are you well?",
            "And how are you?",
            "How's your day?",
        ],
        "I am well, thank you.",
    ),
    (
        &[
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Your name?",
            "Tell me who you are.",
            "Are you a robot?",
            "Are you human?",
            "Introduce yourself.",
        ],
        "I am a small model that looks things up while it writes.",
    ),
    (
        &[
            "What can you do?",
            "What do you do?",
            "Help",
            "Help me",
            "How can you help me?",
            "What may I ask?",
            "What can I ask you?",
            "How does this work?",
        ],
        "Ask me about a country, an element, a book or a planet.",
    ),
    (
        &[
            "Bye",
            "Goodbye",
            "Bye bye!",
            "See you",
            "See you later",
            "Good night",
            "Farewell",
            "I have to go",
            "Until tomorrow",
            "Have a nice day",
        ],
        "Goodbye!",
    ),
    (
        &[
            "Okay",
            "OK",
            "Ok.",
            "I see",
            "Good",
            "Great",
            "Nice",
            "Cool",
            "Fine",
            "Interesting",
            "Wow",
            "Very good",
            "All right",
            "That is good",
            "Well done",
            "Yes",
            "No",
            "Right",
        ],
        "Good. What else would you like to know?",
    ),
];
const UNKNOWN_SMALL_TALK: &[&str] = &[
    "Hi there!",
    "Hello, good morning!",
    "Thanks so much!",
    "Thank you, that is great",
    "Hey, how are you?",
    "Good bye!",
    "Nice to meet you",
    "Hello hello",
    "So who are you?",
    "What are you able to do?",
    "Very nice, thanks",
    "See you soon!",
];

fn pick<'a>(rng: &mut impl Rng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or("")
}

/// How a question mentions a name: the name alone, sometimes with its kind, or with words such as
/// "the author of" before it if a second hop resolves it.
pub fn mention(rng: &mut impl Rng, kind: &Kind, name: &str) -> String {
    if kind.naming != Naming::Word && rng.random_bool(0.06) {
        format!("the {} {name}", kind.noun)
    } else {
        name.to_owned()
    }
}

/// A question for one attribute of what `name` mentions.
pub fn question(rng: &mut impl Rng, attribute: &Attribute, name: &str, wording: Wording) -> String {
    let (own, frames) = match wording {
        Wording::Known => (attribute.questions, FRAMES),
        Wording::Unknown => (attribute.held_out, UNKNOWN_FRAMES),
    };
    let own = if rng.random_bool(0.5) { own } else { &[] };
    let frame = if own.is_empty() {
        pick(rng, frames)
    } else {
        pick(rng, own)
    };
    frame
        .replace("{a}", pick(rng, attribute.nouns))
        .replace("{n}", name)
}

/// A question for several attributes at once: "What are the capital and the currency of Drelland?"
pub fn question_for_all(rng: &mut impl Rng, nouns: &[&str], name: &str) -> String {
    let listed: Vec<String> = nouns.iter().map(|noun| (*noun).to_owned()).collect();
    let frame = pick(
        rng,
        &[
            "What are the {a} of {n}?",
            "Tell me the {a} of {n}.",
            "{n}: {a}?",
            "Give me the {a} of {n}.",
            "{a} of {n}?",
        ],
    );
    frame
        .replace("{a}", &crate::world::names::list(&listed))
        .replace("{n}", name)
}

/// A follow-up that names no entity.
pub fn follow_up(
    rng: &mut impl Rng,
    kind: &Kind,
    attribute: &Attribute,
    wording: Wording,
) -> String {
    let frames = match wording {
        Wording::Known => FOLLOW_UPS,
        Wording::Unknown => UNKNOWN_FOLLOW_UPS,
    };
    let own =
        wording == Wording::Known && !attribute.follow_ups.is_empty() && rng.random_bool(0.45);
    let frame = if own {
        pick(rng, attribute.follow_ups)
    } else {
        pick(rng, frames)
    };
    let (subject, possessive) = match kind.naming {
        Naming::Person => *[("he", "his"), ("she", "her"), ("they", "their")]
            .choose(rng)
            .unwrap_or(&("they", "their")),
        _ => ("it", "its"),
    };
    let text = frame
        .replace("{a}", pick(rng, attribute.nouns))
        .replace("{p}", subject);
    let text = if rng.random_bool(0.2) && !text.starts_with("And") {
        format!("And {}", lower_first(&text))
    } else {
        text
    };
    if possessive == "its" {
        text
    } else {
        text.replace("its ", &format!("{possessive} ")).replace(
            "Its ",
            &format!("{} ", crate::world::names::capitalised(possessive)),
        )
    }
}

/// The last question again, for another entity.
pub fn same_again(rng: &mut impl Rng, name: &str, wording: Wording) -> String {
    pick(
        rng,
        if wording == Wording::Known {
            SAME_AGAIN
        } else {
            UNKNOWN_SAME_AGAIN
        },
    )
    .replace("{n}", name)
}

/// A question for the entity itself.
pub fn describe(rng: &mut impl Rng, name: &str, wording: Wording) -> String {
    pick(
        rng,
        if wording == Wording::Known {
            DESCRIBE
        } else {
            UNKNOWN_DESCRIBE
        },
    )
    .replace("{n}", name)
}

/// Small talk and the reply to it; held-out small talk has no fixed reply.
pub fn small_talk(rng: &mut impl Rng, wording: Wording) -> (String, &'static str) {
    match wording {
        Wording::Known => {
            let (said, reply) = SMALL_TALK
                .choose(rng)
                .copied()
                .unwrap_or((&["Hello!"], "Hello!"));
            (pick(rng, said).to_owned(), reply)
        }
        Wording::Unknown => (pick(rng, UNKNOWN_SMALL_TALK).to_owned(), ""),
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Varies a question as people type: sometimes in lower case, without the question mark, or with a
/// word before it.
pub fn as_typed(rng: &mut impl Rng, question: &str) -> String {
    let mut text = crate::world::names::capitalised(question);
    match rng.random_range(0..100) {
        0..22 => text = text.to_lowercase(),
        22..30 => text = lower_first(&text),
        30..34 => text = format!("Please: {}", lower_first(&text)),
        34..36 => text = format!("{text} Please."),
        36..37 => text = text.to_uppercase(),
        _ => {}
    }
    if rng.random_bool(0.2) {
        text.truncate(text.trim_end_matches(['?', '.', '!']).len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_held_out_wording_is_ever_taught() {
        let small_talk: Vec<&str> = SMALL_TALK
            .iter()
            .flat_map(|(said, _)| *said)
            .copied()
            .collect();
        for (known, held_out) in [
            (FRAMES, UNKNOWN_FRAMES),
            (FOLLOW_UPS, UNKNOWN_FOLLOW_UPS),
            (SAME_AGAIN, UNKNOWN_SAME_AGAIN),
            (DESCRIBE, UNKNOWN_DESCRIBE),
            (small_talk.as_slice(), UNKNOWN_SMALL_TALK),
        ] {
            for wording in held_out {
                assert!(!known.contains(wording), "{wording} is taught");
            }
        }
    }
}
