//! Questions and passages of given lengths that no server has seen before.

/// Words that are one token each, with the space before them, in most vocabularies.
const WORDS: [&str; 64] = [
    "the", "water", "people", "house", "world", "city", "river", "music", "small", "large",
    "first", "second", "year", "time", "place", "book", "name", "part", "work", "line", "group",
    "point", "state", "home", "side", "head", "hand", "land", "night", "light", "story", "school",
    "white", "black", "red", "green", "north", "south", "east", "west", "stone", "iron", "gold",
    "field", "tree", "road", "ship", "sea", "sun", "day", "war", "king", "church", "town", "old",
    "new", "good", "long", "high", "low", "open", "early", "late", "great",
];

/// A conversation's texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conversation {
    /// A name that no other conversation has.
    pub(super) name: String,
    /// Each round's question, and its passage if it reads one.
    pub(super) rounds: Vec<(String, Option<String>)>,
}

/// Texts, one after another. They differ in their first words already, so that no beginning is shared.
pub(super) struct Texts {
    /// Where the sequence of words is: a linear congruential generator, so that runs are equal.
    state: u64,
    conversations: usize,
    /// Tells this run's documents from those of earlier ones.
    run: u32,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self {
            state: 1,
            conversations: 0,
            run: std::process::id(),
        }
    }

    fn text(&mut self, words: usize) -> String {
        let mut text = Vec::with_capacity(words);
        for _ in 0..words {
            // Knuth's constants for 64 bits.
            let next = self.state.wrapping_mul(6_364_136_223_846_793_005);
            self.state = next.wrapping_add(1_442_695_040_888_963_407);
            text.push(WORDS[(self.state >> 58) as usize]);
        }
        text.join(" ")
    }

    /// A conversation of so many rounds, of which every so-and-so-many-th reads a passage.
    pub(super) fn conversation(
        &mut self,
        (rounds, every): (usize, usize),
        question: usize,
        passage: usize,
    ) -> Conversation {
        self.conversations += 1;
        // Ids of processes come again; the words then differ from run to run as well.
        self.state = self.state.wrapping_add(u64::from(self.run) << 32);
        Conversation {
            name: format!("{}-{}", self.run, self.conversations),
            rounds: (0..rounds)
                .map(|round| {
                    let question = self.text(question);
                    let reads = round % every == 0;
                    (question, reads.then(|| self.text(passage)))
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_lengths_and_no_two_begin_alike() {
        let mut texts = Texts::new();
        let conversation = texts.conversation((6, 2), 32, 30);
        let mut all: Vec<&String> = Vec::new();
        for (round, (question, passage)) in conversation.rounds.iter().enumerate() {
            assert_eq!(question.split(' ').count(), 32);
            assert_eq!(passage.is_some(), round % 2 == 0);
            assert!(passage.iter().all(|text| text.split(' ').count() == 30));
            all.push(question);
            all.extend(passage);
        }
        for (at, text) in all.iter().enumerate() {
            let beginning = |text: &str| text.split(' ').take(6).collect::<Vec<_>>().join(" ");
            assert!(
                all[..at]
                    .iter()
                    .all(|other| beginning(other) != beginning(text))
            );
        }
        assert_ne!(texts.conversation((6, 2), 32, 30).name, conversation.name);
    }
}
