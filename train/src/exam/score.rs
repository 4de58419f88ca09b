//! Scores answers by the rules of SQuAD and HotpotQA, and decides which answers abstain.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// What a model writes if it cannot find the answer.
pub const ABSTENTION: &str = "I could not find that.";

/// Normalised beginnings of answers that abstain.
const ABSTAINING: [&str; 14] = [
    "i could not find",
    "i couldnt find",
    "i can not find",
    "i cannot find",
    "i cant find",
    "i did not find",
    "i didnt find",
    "i do not know",
    "i dont know",
    "i am not sure",
    "im not sure",
    "passage does not",
    "passage doesnt",
    "no answer",
];

/// The data set whose F1 is used. Exact match is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// SQuAD 1.1: F1 is 0 for two texts without a common word (Rajpurkar et al. 2016).
    Squad1,
    /// SQuAD 2.0: F1 of two empty texts is 1 (Rajpurkar et al. 2018).
    Squad2,
    /// HotpotQA: "yes", "no" and "noanswer" are right or wrong as a whole (Yang et al. 2018).
    Hotpot,
}

/// How well an answer agrees with the best-matching right answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Score {
    /// 1 if both are equal after normalisation, else 0.
    pub exact: f64,
    /// Harmonic mean of precision and recall of words, in 0..=1.
    pub f1: f64,
}

impl Rule {
    /// Scores an answer. Exact match and F1 are each the maximum over all right answers. Without any
    /// right answer the empty text is right, as for SQuAD 2.0's unanswerable questions.
    pub fn score(self, answer: &str, right: &[String]) -> Score {
        let answer = normalised(answer);
        let mut right: Vec<_> = right.iter().map(|right| normalised(right)).collect();
        if self == Self::Squad2 {
            right.retain(|right| !right.is_empty());
        }
        if right.is_empty() {
            right.push(String::new());
        }
        right.iter().fold(Score::default(), |best, right| Score {
            exact: best.exact.max(f64::from(u8::from(answer == *right))),
            f1: best.f1.max(self.f1(&answer, right)),
        })
    }

    /// F1 of two normalised texts.
    fn f1(self, answer: &str, right: &str) -> f64 {
        let whole = |text| matches!(text, "yes" | "no" | "noanswer");
        if self == Self::Hotpot && answer != right && (whole(answer) || whole(right)) {
            return 0.0;
        }
        let (answer, right): (Vec<_>, Vec<_>) = (words(answer), words(right));
        if answer.is_empty() || right.is_empty() {
            let agree = self == Self::Squad2 && answer == right;
            return f64::from(u8::from(agree));
        }
        let mut left = HashMap::<&str, usize>::new();
        for word in &right {
            *left.entry(word).or_default() += 1;
        }
        let common = answer.iter().filter(|word| {
            let left = left.get_mut(**word).filter(|left| **left > 0);
            left.map(|left| *left -= 1).is_some()
        });
        let common = common.count() as f64;
        if common == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (common / answer.len() as f64, common / right.len() as f64);
        2.0 * precision * recall / (precision + recall)
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// SQuAD's normalisation: lower case, without ASCII punctuation, without the words "a", "an" and "the",
/// and with single spaces. A word consists of letters, digits and underscores, so "a–b" loses its "a".
pub fn normalised(text: &str) -> String {
    let text = text.to_lowercase();
    let text: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let of_word = |c: char| c.is_alphanumeric();
        let run = rest.find(|c| of_word(c) != of_word(first));
        let (run, after) = rest.split_at(run.unwrap_or(rest.len()));
        kept.push_str(if matches!(run, "a" | "an" | "the") {
            " "
        } else {
            run
        });
        rest = after;
    }
    words(&kept).join(" ")
}

/// Whether an answer abstains: it begins like one of a list of such answers, or is empty. **Only
/// this function decides it.**
pub fn abstains(answer: &str) -> bool {
    let answer = normalised(&answer.replace('’', "'"));
    let begins = |beginning: &str| {
        let rest = answer.strip_prefix(beginning);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    answer.is_empty() || ABSTAINING.iter().any(|beginning| begins(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_case_and_punctuation_do_not_count() {
        assert_eq!(normalised("The  Sol."), normalised("sol"));
        assert_ne!(normalised("Lima"), normalised("Lime"));
        assert_eq!(normalised("theatre"), "theatre");
    }

    #[test]
    fn refusals_abstain_and_answers_do_not() {
        for refusal in [
            ABSTENTION,
            "I couldn’t find that in the text.",
            "I don't know",
            "",
        ] {
            assert!(abstains(refusal), "{refusal:?}");
        }
        for answer in ["Find", "no", "I could not find that out", "1973"] {
            let expected = answer.starts_with("I could not");
            assert_eq!(abstains(answer), expected, "{answer:?}");
        }
    }
}
