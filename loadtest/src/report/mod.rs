//! What a run leaves: a JSON file that later runs are compared with, and a page for people.

mod html;
mod machine;
mod plots;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use html::{HtmlError, knees_page, run_page, sweep_page};
pub use machine::Machine;

use crate::client::Outcome;
use crate::figures::{Figures, ServiceLevel};
use crate::idle::IdleFigures;
use crate::plan::dataset::BrokenLines;
use crate::record::Record;
use crate::sweep::Step;

/// A run, as it is written to a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the program.
    pub version: String,
    /// When the run began, in seconds since 1970.
    pub began: u64,
    /// What was asked.
    pub target: Target,
    /// Where it ran.
    pub machine: Machine,
    /// The load. Runs are comparable if theirs is equal.
    pub load: Load,
    /// Lines of the dataset that could not be read.
    pub broken_lines: usize,
    /// The figures.
    pub figures: Figures,
    /// What became of the conversations that were idle meanwhile.
    #[serde(default)]
    pub idle: Option<IdleFigures>,
    /// What happened in each second.
    pub seconds: Vec<Second>,
}

/// A sweep, as it is written to a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// The version of the program.
    pub version: String,
    /// What was asked.
    pub target: Target,
    /// Where it ran.
    pub machine: Machine,
    /// The load of the last step.
    pub load: Load,
    /// The highest rate, in conversations a second, before the first that was not borne.
    pub highest_borne: Option<f64>,
    /// Each rate and what came of it.
    pub steps: Vec<Step>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its address.
    pub url: String,
    /// The model that was asked for.
    pub model: String,
}

/// Everything that decides what is sent and when, and what counts as good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// `poisson`, `constant` or `trace`.
    pub arrivals: String,
    /// Conversations a second; of a trace, none.
    pub rate: Option<f64>,
    /// Seconds in which conversations begin.
    pub duration: f64,
    /// Turns of a conversation: at least, and at most.
    pub turns: (usize, usize),
    /// Mean think time in seconds.
    pub think: f64,
    /// The number of system messages.
    pub systems: usize,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// The share of turns that lose their client.
    pub disconnects: f64,
    /// The seed of the plan.
    pub seed: u64,
    /// Where the texts come from.
    pub dataset: String,
    /// The trace's file name.
    pub trace: Option<String>,
    /// Requests that may be under way at once.
    pub in_flight: usize,
    /// Seconds after which an answer is given up.
    pub timeout: f64,
    /// Conversations that were idle meanwhile.
    #[serde(default)]
    pub idle: usize,
    /// Fields that every request had besides the usual ones.
    pub extra: Map<String, Value>,
    /// What counts as good.
    pub level: ServiceLevel,
    /// How many conversations and turns were planned.
    pub planned: (usize, usize),
}

/// A second of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Requests that were due in it.
    pub due: usize,
    /// Answers that ended whole in it.
    pub answered: usize,
    /// Requests that failed in it.
    pub failed: usize,
    /// Tokens of the answers that ended in it.
    pub tokens: usize,
}

impl Report {
    /// The report of some records.
    pub fn new(
        target: Target,
        load: Load,
        broken: &BrokenLines,
        records: &[Record],
        began: u64,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            began,
            target,
            machine: Machine::this(),
            figures: Figures::new(records, &load.level),
            idle: None,
            load,
            broken_lines: broken.count,
            seconds: seconds(records),
        }
    }
}

fn seconds(records: &[Record]) -> Vec<Second> {
    let second = |milliseconds: f64| (milliseconds / 1e3) as usize;
    let mut seconds: BTreeMap<usize, Second> = BTreeMap::new();
    for record in records {
        seconds.entry(second(record.due_ms)).or_default().due += 1;
        let end = seconds
            .entry(second(record.due_ms + record.total_ms))
            .or_default();
        end.tokens += record.completion_tokens;
        end.answered += usize::from(record.outcome == Outcome::Ok);
        end.failed += usize::from(record.outcome.is_failure());
    }
    let last = seconds.keys().last().map_or(0, |last| last + 1);
    (0..last)
        .map(|at| seconds.remove(&at).unwrap_or_default())
        .collect()
}
