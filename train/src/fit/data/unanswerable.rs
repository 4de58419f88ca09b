//! Makes questions that a passage does not answer from questions that it does.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Pairs of words that turn a question into another one.
const OPPOSITES: [(&str, &str); 24] = [
    ("first", "last"),
    ("largest", "smallest"),
    ("most", "fewest"),
    ("highest", "lowest"),
    ("before", "after"),
    ("begin", "end"),
    ("began", "ended"),
    ("start", "stop"),
    ("started", "stopped"),
    ("north", "south"),
    ("northern", "southern"),
    ("east", "west"),
    ("eastern", "western"),
    ("increase", "decrease"),
    ("increased", "decreased"),
    ("born", "buried"),
    ("win", "lose"),
    ("won", "lost"),
    ("male", "female"),
    ("built", "demolished"),
    ("opened", "closed"),
    ("oldest", "youngest"),
    ("early", "late"),
    ("support", "oppose"),
];

/// Words that may begin with a capital letter although they are not names.
const COMMON: [&str; 24] = [
    "What",
    "Which",
    "Who",
    "Whom",
    "Whose",
    "When",
    "Where",
    "Why",
    "How",
    "The",
    "In",
    "On",
    "TokenPosition",
    "A",
    "An",
    "I",
    "Of",
    "To",
    "For",
    "From",
    "Is",
    "Was",
    "Did",
    "Does",
];

/// A changed question that asks for something else: with another number, another name, or a word replaced
/// by its opposite. `None` if the question contains none of these. The other names and numbers come from
/// `elsewhere`, a text about something else.
pub(super) fn changed(
    question: &str,
    passage: &str,
    elsewhere: &str,
    rng: &mut StdRng,
) -> Option<String> {
    let words: Vec<&str> = question.split_whitespace().collect();
    let mut candidates = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let opposite = OPPOSITES.iter().find_map(|(a, b)| match bare {
            _ if bare == *a => Some(*b),
            _ if bare == *b => Some(*a),
            _ => None,
        });
        let another = if let Some(opposite) = opposite {
            Some(opposite.to_owned())
        } else if is_number(bare) {
            pick(elsewhere, rng, |other| {
                is_number(other) && !passage.contains(other)
            })
        } else if at > 0 && is_name(bare) {
            pick(elsewhere, rng, |other| {
                is_name(other) && !passage.contains(other)
            })
        } else {
            None
        };
        if let Some(another) = another {
            candidates.push((at, word.replacen(bare, &another, 1)));
        }
    }
    let (at, another) = candidates.choose(rng)?;
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    words[*at].clone_from(another);
    Some(words.join(" "))
}

/// A random word of a text for which `meets` is true.
fn pick(text: &str, rng: &mut StdRng, meets: impl Fn(&str) -> bool) -> Option<String> {
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| meets(word))
        .collect();
    if words.is_empty() {
        return None;
    }
    Some(words[rng.random_range(0..words.len())].to_owned())
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether a word that does not begin a sentence is a name.
pub(super) fn is_name(word: &str) -> bool {
    word.len() > 2 && word.starts_with(char::is_uppercase) && !COMMON.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_changed_question_asks_for_what_the_passage_does_not_tell() {
        let mut rng = StdRng::seed_from_u64(1);
        let changed = changed(
            "What did Anna do in 1912?",
            "Anna sang in 1912.",
            "Berta danced in 1755.",
            &mut rng,
        );
        let changed = changed.unwrap();
        assert!(
            ["What did Berta do in 1912?", "What did Anna do in 1755?"].contains(&changed.as_str()),
            "{changed}"
        );
    }

    #[test]
    fn a_question_that_names_nothing_is_not_changed() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(
            changed("Why was it sad?", "It was.", "Berta, 1755", &mut rng),
            None
        );
    }
}
