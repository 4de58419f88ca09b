//! The same load at one rate after another, to find the rate that a server bears.

use serde::{Deserialize, Serialize};

use crate::figures::Figures;

/// A rate and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Conversations a second.
    pub rate: f64,
    /// Requests that were due a second, while conversations began.
    pub due_per_second: f64,
    /// Requests that failed.
    pub failures: usize,
    /// The figures.
    pub figures: Figures,
}

impl Step {
    /// The step of a run that began conversations at `rate` for `duration` seconds.
    pub fn new(rate: f64, duration: f64, figures: Figures) -> Self {
        Self {
            rate,
            due_per_second: figures.requests as f64 / duration,
            failures: figures.failures(),
            figures,
        }
    }

    /// Whether nothing failed and 95 of 100 first texts came within some milliseconds.
    pub fn is_borne(&self, ttft_ms: f64) -> bool {
        let in_time = |ttft: &crate::figures::Percentiles| ttft.p95 <= ttft_ms;
        self.failures == 0 && self.figures.ttft_ms.as_ref().is_some_and(in_time)
    }
}

/// The last step before the first that is not borne: higher rates that happen to go well again do not count.
pub fn highest_borne(steps: &[Step], ttft_ms: f64) -> Option<&Step> {
    steps
        .iter()
        .take_while(|step| step.is_borne(ttft_ms))
        .last()
}
