//! What is sent and when: fixed before the first request, and the same for the same options and seed.

pub mod arrivals;
pub mod dataset;
pub mod trace;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp};

use arrivals::Arrivals;
use dataset::Dataset;
use trace::Trace;

/// All conversations of a run, in the order in which they begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The conversations.
    pub conversations: Vec<PlannedConversation>,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedConversation {
    /// When its first turn is due, from the run's beginning.
    pub at: Duration,
    /// Its system message.
    pub system: Option<Arc<str>>,
    /// Its turns, at least one.
    pub turns: Vec<PlannedTurn>,
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTurn {
    /// The user's message.
    pub question: String,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// How long after the end of the answer before it the turn is due; zero in the first turn.
    pub think: Duration,
    /// The client leaves after the first text.
    pub disconnects: bool,
}

/// How conversations are made from a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// When conversations begin.
    pub arrivals: Arrivals,
    /// For how long conversations begin.
    pub duration: Duration,
    /// Turns of each conversation: at least, and at most.
    pub turns: (usize, usize),
    /// Mean of the exponentially distributed think times.
    pub think: Duration,
    /// System messages, given to conversations in turn.
    pub systems: Vec<Arc<str>>,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Which share of the turns loses its client after the first text.
    pub disconnects: f64,
    /// The same seed gives the same plan.
    pub seed: u64,
}

impl Plan {
    /// Conversations that begin at random or regular times. A record of the dataset with several questions gives a
    /// conversation of its own; others are joined.
    pub fn from_shape(shape: &Shape, dataset: &Dataset) -> Self {
        let mut rng = StdRng::seed_from_u64(shape.seed);
        let mut questions = dataset.questions(shape.seed);
        let times = shape.arrivals.times(shape.duration, &mut rng);
        let conversations = times.into_iter().enumerate().map(|(number, at)| {
            let (least, most) = shape.turns;
            let turns = questions.conversation(rng.random_range(least..=most));
            let turns = turns.into_iter().enumerate();
            let turns = turns.map(|(turn, question)| PlannedTurn {
                question,
                max_tokens: shape.max_tokens,
                think: think(turn, shape.think, &mut rng),
                disconnects: rng.random_bool(shape.disconnects),
            });
            PlannedConversation {
                at,
                system: system(&shape.systems, number),
                turns: turns.collect(),
            }
        });
        Self {
            conversations: conversations.collect(),
        }
    }

    /// Conversations as a trace tells their times and lengths, with texts of the dataset.
    pub fn from_trace(trace: &Trace, shape: &Shape, dataset: &Dataset) -> Self {
        let mut rng = StdRng::seed_from_u64(shape.seed);
        let mut questions = dataset.questions(shape.seed);
        let begun = trace
            .conversations
            .iter()
            .filter(|conversation| conversation.at <= shape.duration);
        let conversations = begun.enumerate().map(|(number, conversation)| {
            let turns = conversation.turns.iter().map(|turn| PlannedTurn {
                question: questions.of_words(turn.question_words),
                max_tokens: turn.answer_tokens,
                think: turn.think,
                disconnects: rng.random_bool(shape.disconnects),
            });
            PlannedConversation {
                at: conversation.at,
                system: system(&shape.systems, number),
                turns: turns.collect(),
            }
        });
        Self {
            conversations: conversations.collect(),
        }
    }

    /// The number of turns.
    pub fn turns(&self) -> usize {
        let turns = self.conversations.iter().map(|one| one.turns.len());
        turns.sum()
    }
}

fn system(all: &[Arc<str>], conversation: usize) -> Option<Arc<str>> {
    let number = conversation.checked_rem(all.len())?;
    Some(all[number].clone())
}

fn think(turn: usize, mean: Duration, rng: &mut StdRng) -> Duration {
    match Exp::new(1.0 / mean.as_secs_f64()) {
        Ok(times) if turn > 0 && !mean.is_zero() => Duration::from_secs_f64(times.sample(rng)),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            arrivals: Arrivals::Poisson(20.0),
            duration: Duration::from_secs(60),
            turns: (1, 4),
            think: Duration::from_secs(2),
            systems: vec!["Be brief.".into(), "Be kind.".into()],
            max_tokens: 16,
            disconnects: 0.25,
            seed: 3,
        }
    }

    #[test]
    fn the_same_options_and_seed_give_the_same_plan_and_another_seed_another() {
        let dataset = Dataset::built_in();
        let plan = Plan::from_shape(&shape(), &dataset);
        assert_eq!(plan, Plan::from_shape(&shape(), &dataset));
        let other = Shape { seed: 4, ..shape() };
        assert_ne!(plan, Plan::from_shape(&other, &dataset));
    }

    #[test]
    fn a_plan_has_the_shape_that_was_asked_for() {
        let plan = Plan::from_shape(&shape(), &Dataset::built_in());
        let conversations = &plan.conversations;
        // 1,200 are expected, with a standard deviation of 35.
        assert!((1_050..1_350).contains(&conversations.len()));
        let turns = conversations.iter().map(|one| one.turns.len());
        assert!(turns.clone().all(|turns| (1..=4).contains(&turns)));
        assert_eq!((turns.clone().min(), turns.max()), (Some(1), Some(4)));
        let later = conversations.iter().flat_map(|one| &one.turns[1..]);
        let thinks: Vec<f64> = later.map(|turn| turn.think.as_secs_f64()).collect();
        let mean = thinks.iter().sum::<f64>() / thinks.len() as f64;
        assert!((1.8..2.2).contains(&mean), "{mean}");
        let all = || conversations.iter().flat_map(|one| &one.turns);
        let share = all().filter(|turn| turn.disconnects).count() as f64 / all().count() as f64;
        assert!((0.2..0.3).contains(&share), "{share}");
        assert!(conversations.iter().all(|one| one.turns[0].think.is_zero()));
        assert_ne!(conversations[0].system, conversations[1].system);
        assert_eq!(conversations[0].system, conversations[2].system);
    }
}
