//! Figures of a run, from its records.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use onegen_proto::PassageKv;
use serde::{Deserialize, Serialize};

use crate::client::Outcome;
use crate::record::Record;

/// What an answer must keep to count as good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ServiceLevel {
    /// Milliseconds until the first text at most.
    pub ttft_ms: f64,
    /// Milliseconds between two pieces of text at most, at the answer's own mean.
    pub itl_ms: f64,
}

impl ServiceLevel {
    /// Whether an answer came whole and in time.
    pub fn is_met(&self, record: &Record) -> bool {
        let mean_gap = mean(&record.gaps_ms).unwrap_or(0.0);
        record.outcome == Outcome::Ok
            && record.ttft_ms.is_none_or(|ttft| ttft <= self.ttft_ms)
            && mean_gap <= self.itl_ms
    }
}

/// Figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// From the first request that was due to the last that ended.
    pub seconds: f64,
    /// Requests that were due.
    pub requests: usize,
    /// How many ended in which way.
    pub outcomes: BTreeMap<String, usize>,
    /// Reasons of those that failed, with their number.
    pub reasons: BTreeMap<String, usize>,
    /// Whole answers a second.
    pub answers_per_second: f64,
    /// Whole answers a second that kept the service level.
    pub goodput_per_second: f64,
    /// The share of all requests that was due and kept the service level.
    pub good_share: f64,
    /// Tokens that were written, a second.
    pub tokens_per_second: f64,
    /// Tokens that were read, by the server's count.
    pub prompt_tokens: usize,
    /// The share of them that was not computed again.
    pub cached_share: f64,
    /// Milliseconds from when a request was due to its first text.
    pub ttft_ms: Option<Percentiles>,
    /// Milliseconds between two pieces of text.
    pub itl_ms: Option<Percentiles>,
    /// Milliseconds from when a request was due to its end.
    pub total_ms: Option<Percentiles>,
    /// Milliseconds by which requests were sent late; the load was not what was planned where this is large.
    pub late_ms: Option<Percentiles>,
    /// Milliseconds of searches.
    pub search_ms: Option<Percentiles>,
    /// Milliseconds of splices.
    pub splice_ms: Option<Percentiles>,
    /// Retrievals by where the passage's keys and values came from.
    pub passage_kv: BTreeMap<String, usize>,
}

/// A distribution. All values are in its figure's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 90 of 100 are at most this.
    pub p90: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// The distribution of some milliseconds, to three digits; none of none.
    pub fn from_milliseconds(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        // In microseconds, up to a day. It has the memory that its values need.
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 86_400_000_000, 3).ok()?;
        for value in values {
            histogram.saturating_record((value * 1e3).round().max(0.0) as u64);
        }
        if histogram.is_empty() {
            return None;
        }
        let at = |share: f64| histogram.value_at_quantile(share) as f64 / 1e3;
        Some(Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

impl Figures {
    /// The figures of a run's records.
    pub fn new(records: &[Record], level: &ServiceLevel) -> Self {
        let begins = records.iter().map(|record| record.due_ms);
        let ends = records.iter().map(|record| record.due_ms + record.total_ms);
        let span = ends.fold(0.0, f64::max) - begins.fold(f64::INFINITY, f64::min);
        let seconds = if records.is_empty() { 0.0 } else { span / 1e3 };
        let per_second = |count: usize| {
            if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            }
        };
        let whole = || {
            records
                .iter()
                .filter(|record| record.outcome == Outcome::Ok)
        };
        let good = records.iter().filter(|record| level.is_met(record)).count();
        let (mut outcomes, mut reasons) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            let (name, reason) = named(&record.outcome);
            *outcomes.entry(name.to_owned()).or_default() += 1;
            if let Some(reason) = reason {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let retrievals = || records.iter().flat_map(|record| &record.retrievals);
        let mut passage_kv = BTreeMap::new();
        for retrieval in retrievals() {
            let name = match retrieval.passage_kv {
                PassageKv::Computed => "computed",
                PassageKv::Memory => "memory",
                PassageKv::Disk => "disk",
            };
            *passage_kv.entry(name.to_owned()).or_default() += 1;
        }
        let prompt_tokens = records.iter().map(|record| record.prompt_tokens).sum();
        let cached: usize = records.iter().map(|record| record.cached_tokens).sum();
        let written = records.iter().map(|record| record.completion_tokens).sum();
        let sent = || {
            let dropped = |record: &&Record| record.outcome != Outcome::Dropped;
            records.iter().filter(dropped)
        };
        Self {
            seconds,
            requests: records.len(),
            outcomes,
            reasons,
            answers_per_second: per_second(whole().count()),
            goodput_per_second: per_second(good),
            good_share: share(good, records.len()),
            tokens_per_second: per_second(written),
            prompt_tokens,
            cached_share: share(cached, prompt_tokens),
            ttft_ms: Percentiles::from_milliseconds(sent().filter_map(|record| record.ttft_ms)),
            itl_ms: Percentiles::from_milliseconds(
                records
                    .iter()
                    .flat_map(|record| record.gaps_ms.iter().copied()),
            ),
            total_ms: Percentiles::from_milliseconds(whole().map(|record| record.total_ms)),
            late_ms: Percentiles::from_milliseconds(sent().map(|record| record.late_ms)),
            search_ms: Percentiles::from_milliseconds(retrievals().map(|one| one.search_ms)),
            splice_ms: Percentiles::from_milliseconds(retrievals().map(|one| one.splice_ms)),
            passage_kv,
        }
    }

    /// Requests that ended in another way than whole or, as planned, without their client.
    pub fn failures(&self) -> usize {
        let of = |name: &str| self.outcomes.get(name).copied().unwrap_or_default();
        self.requests - of("ok") - of("disconnected")
    }
}

/// An outcome's name, and the reason of a failure.
fn named(outcome: &Outcome) -> (&'static str, Option<String>) {
    match outcome {
        Outcome::Ok => ("ok", None),
        Outcome::Disconnected => ("disconnected", None),
        Outcome::Refused { status, reason } => ("refused", Some(format!("{status} {reason}"))),
        Outcome::CutOff { reason } => ("cut_off", Some(reason.clone())),
        Outcome::Unreachable { reason } => ("unreachable", Some(reason.clone())),
        Outcome::TimedOut => ("timed_out", None),
        Outcome::Dropped => ("dropped", None),
        Outcome::Unfinished => ("unfinished", None),
    }
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 / of as f64
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LEVEL: ServiceLevel = ServiceLevel {
        ttft_ms: 100.0,
        itl_ms: 20.0,
    };

    fn record(outcome: Outcome, due_ms: f64, ttft_ms: f64, gaps_ms: &[f64]) -> Record {
        Record {
            conversation: 0,
            turn: 0,
            due_ms,
            late_ms: 0.0,
            outcome,
            ttft_ms: Some(ttft_ms),
            total_ms: ttft_ms + gaps_ms.iter().sum::<f64>(),
            gaps_ms: gaps_ms.to_vec(),
            prompt_tokens: 10,
            cached_tokens: 5,
            completion_tokens: gaps_ms.len() + 1,
            retrievals: Vec::new(),
        }
    }

    #[test]
    fn goodput_counts_whole_answers_that_kept_the_service_level() {
        let refused = Outcome::Refused {
            status: 429,
            reason: "rate_limit_exceeded".into(),
        };
        let records = [
            record(Outcome::Ok, 0.0, 100.0, &[10.0, 30.0]),
            record(Outcome::Ok, 100.0, 101.0, &[10.0]),
            record(Outcome::Ok, 200.0, 50.0, &[30.0]),
            record(Outcome::Disconnected, 300.0, 10.0, &[]),
            record(refused, 1990.0, 10.0, &[]),
        ];
        let figures = Figures::new(&records, &LEVEL);
        assert_eq!(
            (figures.seconds, figures.requests, figures.failures()),
            (2.0, 5, 1)
        );
        assert_eq!(figures.answers_per_second, 1.5);
        assert_eq!((figures.goodput_per_second, figures.good_share), (0.5, 0.2));
        assert_eq!(figures.reasons["429 rate_limit_exceeded"], 1);
        assert_eq!((figures.prompt_tokens, figures.cached_share), (50, 0.5));
        assert_eq!(figures.tokens_per_second, 4.5);
        assert!(Figures::new(&[], &LEVEL).ttft_ms.is_none());
    }

    #[test]
    fn percentiles_are_the_nearest_ranks_to_three_digits() {
        let values = (1..=1000).map(f64::from);
        let percentiles = Percentiles::from_milliseconds(values).unwrap();
        for (value, wanted) in [
            (percentiles.p50, 500.0),
            (percentiles.p90, 900.0),
            (percentiles.p95, 950.0),
            (percentiles.p99, 990.0),
            (percentiles.max, 1000.0),
            (percentiles.mean, 500.5),
        ] {
            assert!(
                (value - wanted).abs() / wanted < 1e-3,
                "{value} for {wanted}"
            );
        }
        assert_eq!(percentiles.count, 1000);
        let short = Percentiles::from_milliseconds([0.25]).unwrap();
        assert!((short.p50 - 0.25).abs() < 1e-3);
    }
}
