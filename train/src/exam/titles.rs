//! Which questions name the subject of their passage's article.
//!
//! Many questions of SQuAD were written next to their paragraph and do not name its subject. **Rule:** a
//! question shares a word with the title if one of its content words is also one of the title's. Words
//! are runs of letters and digits in lower case; a content word is one that is not in the list below.
//! Nothing is stemmed, so "wars" is not "war".

use std::collections::HashSet;

use crate::bm25::words;

/// Words that do not indicate the subject of a text: articles, pronouns, prepositions,
/// conjunctions, auxiliary verbs, question words, and the letters that apostrophes cut off.
const STOP_WORDS: &str = "a about above after again against all am among an and another any are as at be \
    because been before being below between both but by can could d did do does doing down during each \
    else ever few for from further had has have having he her here hers herself him himself his how i if \
    in into is it its itself just ll m many may me might more most much must my myself neither no nor not \
    now of off often on once one only or other others our ours out over own per re s same shall she should \
    since so some such t than that the their theirs them themselves then there these they this those \
    through to too under until up upon us ve very via was we were what when where whether which while who \
    whom whose why will with within without would you your yours";

/// Whether a question and a title have a content word in common.
pub fn share_a_word(question: &str, title: &str) -> bool {
    let stop_words: HashSet<&str> = STOP_WORDS.split_whitespace().collect();
    let title: HashSet<String> = words(title).collect();
    words(question).any(|word| !stop_words.contains(word.as_str()) && title.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_words_count() {
        assert!(share_a_word(
            "When did the 1973 crisis begin?",
            "1973 oil crisis"
        ));
        assert!(!share_a_word(
            "When did the war begin?",
            "History of the oil"
        ));
        assert!(share_a_word("Who led the Huguenots?", "huguenots"));
    }
}
