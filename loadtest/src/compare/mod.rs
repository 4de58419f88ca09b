//! One pass against two: the same conversations by different methods, side by side.
//!
//! A round is a question of `Q` tokens, a passage of `D` that is found with it, and an answer of `A`. In *one pass* the
//! model searches with its own state and the passage is spliced in (`Q + 1 + D + 2 + A` positions, or `Q + 1 + 1 + A`
//! where its keys and values are kept). In *two passes* the question is embedded by itself first and then stands in a
//! prompt together with the passage (`2Q + D + A` and more). Every conversation has several rounds, so that histories
//! count as they do in use. All methods find the passage that they are meant to, by a filter, so that they read the same.

mod counters;
mod linking;
mod methods;
mod texts;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

pub use linking::{LinkingMethod, LinkingPoint, compare_linking};
pub use methods::{Method, Servers};

use texts::Texts;

/// Medians that an interval is of.
const DRAWS: usize = 1000;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Words of a question; common words, of a token each.
    pub questions: Vec<usize>,
    /// Words of a passage.
    pub passages: Vec<usize>,
    /// Every how many rounds a passage is read; the others are questions alone.
    #[serde(default = "each_round")]
    pub every: Vec<usize>,
    /// Tokens of an answer.
    pub answer: usize,
    /// Rounds of a conversation.
    pub rounds: usize,
    /// Conversations of each method at each point, by turns.
    pub repetitions: usize,
}

impl Grid {
    /// Each length of a passage and of a question, and every how many rounds a passage is read.
    fn lengths(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let passages = self.passages.iter();
        passages.flat_map(move |&passage| {
            let questions = self.questions.iter();
            questions.flat_map(move |&question| {
                let every = self.every.iter();
                every.map(move |&every| (passage, question, every))
            })
        })
    }
}

/// What a round cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Milliseconds from the question to the end of the answer, everything included.
    pub total_ms: f64,
    /// Milliseconds from the question to the first text.
    pub ttft_ms: f64,
    /// Positions that were forwarded for it, by the servers' own counts.
    pub forwarded: u64,
}

/// A method at a point of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// How the rounds were done.
    pub method: Method,
    /// Words of each question.
    pub question: usize,
    /// Words of each passage.
    pub passage: usize,
    /// Every how many rounds a passage was read.
    #[serde(default = "one")]
    pub every: usize,
    /// What they cost.
    pub rounds: Rounds,
}

/// What some rounds cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rounds(pub Vec<Round>);

fn one() -> usize {
    1
}

fn each_round() -> Vec<usize> {
    vec![one()]
}

impl Rounds {
    /// The interval in which 95 of 100 medians of as many rounds lie, drawn from these (bootstrap, Efron 1979).
    pub fn interval(&self, of: impl Fn(&Round) -> f64) -> (f64, f64) {
        let mut rng = StdRng::seed_from_u64(1);
        let count = self.0.len();
        let draw = |rng: &mut StdRng| {
            let drawn = (0..count).map(|_| of(&self.0[rng.random_range(0..count)]));
            median(drawn.collect())
        };
        let mut medians: Vec<f64> = match count {
            0 => return (f64::NAN, f64::NAN),
            _ => (0..DRAWS).map(|_| draw(&mut rng)).collect(),
        };
        medians.sort_by(f64::total_cmp);
        (medians[DRAWS * 25 / 1000], medians[DRAWS * 975 / 1000])
    }

    /// The median of what a round took, in milliseconds.
    pub fn total_ms(&self) -> f64 {
        self.median(|round| round.total_ms)
    }

    /// [`Self::total_ms`] and its interval, as a table tells them.
    pub fn total_and_interval(&self) -> String {
        let (low, high) = self.interval(|round| round.total_ms);
        format!("{:.1} ({low:.1} to {high:.1})", self.total_ms())
    }

    /// The median of a cost over all rounds.
    pub fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Measures every point of the grid by all methods that the servers allow, one conversation of each in turn. `see` gets
/// each point as soon as it is measured.
///
/// # Errors
/// What went wrong, in words.
pub async fn compare(
    servers: &Servers,
    grid: &Grid,
    mut see: impl FnMut(&[Point]),
) -> Result<Vec<Point>, String> {
    let methods = servers.methods();
    let mut points = Vec::new();
    let mut texts = Texts::new();
    for (passage, question, every) in grid.lengths() {
        let mut rounds: BTreeMap<usize, Rounds> = BTreeMap::new();
        for repetition in 0..grid.repetitions {
            for turn in 0..methods.len() {
                // Whoever begins has no advantage.
                let which = (turn + repetition) % methods.len();
                let conversation = texts.conversation((grid.rounds, every), question, passage);
                let costs = servers.converse(methods[which], &conversation, grid.answer);
                rounds.entry(which).or_default().0.extend(costs.await?);
            }
        }
        let measured = rounds.into_iter().map(|(which, rounds)| Point {
            method: methods[which],
            question,
            passage,
            every,
            rounds,
        });
        let measured: Vec<Point> = measured.collect();
        see(&measured);
        points.extend(measured);
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        let rounds = |values: &[f64]| {
            let round = |&total_ms| Round {
                total_ms,
                ttft_ms: 0.0,
                forwarded: 0,
            };
            Rounds(values.iter().map(round).collect())
        };
        assert_eq!(rounds(&[3.0, 1.0, 2.0]).median(|round| round.total_ms), 2.0);
        assert_eq!(
            rounds(&[4.0, 1.0, 2.0, 9.0]).median(|round| round.total_ms),
            3.0
        );
        assert!(rounds(&[]).median(|round| round.total_ms).is_nan());
        // Of a hundred values, the median of a hundred draws is near the middle.
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let (low, high) = rounds(&values).interval(|round| round.total_ms);
        assert!(
            (35.0..45.0).contains(&low) && (54.0..65.0).contains(&high),
            "{low} {high}"
        );
    }
}
