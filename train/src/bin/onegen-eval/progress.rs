//! Prints progress on standard error.

use std::time::{Duration, Instant};

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Prints from time to time how many things are done, and how long the rest will take.
pub(crate) struct Progress {
    what: String,
    all: usize,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Begins now. `things` names what is counted, such as "questions".
    pub(crate) fn new(what: &str, things: &str, all: usize) -> Self {
        let now = Instant::now();
        Self {
            what: format!("{what}: {things}"),
            all,
            begun: now,
            told: now,
        }
    }

    /// Prints that `done` things are done, unless a line was printed a moment ago.
    pub(crate) fn print(&mut self, done: usize) {
        if done == 0 || self.told.elapsed() < INTERVAL && done < self.all {
            return;
        }
        self.told = Instant::now();
        let taken = self.begun.elapsed().as_secs_f64();
        let left = taken / done as f64 * self.all.saturating_sub(done) as f64;
        eprintln!(
            "{}: {done} of {} in {taken:.0} s, {left:.0} s left",
            self.what, self.all
        );
    }
}
