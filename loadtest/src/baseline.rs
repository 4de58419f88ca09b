//! Compares a run with an earlier one that had the same load on the same machine.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::figures::Percentiles;
use crate::report::{Load, Machine, Report};

/// Why runs are not compared.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no report.
    #[error("{} is no report of onegen-loadtest: {source}", .path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The runs had different loads, or ran on different machines.
    #[error("the baseline is of another run, so figures would say nothing: {}", .differences.join("; "))]
    Unlike {
        /// What differs, with both values.
        differences: Vec<String>,
    },
}

/// Figures of two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    rows: Vec<(&'static str, f64, f64)>,
}

/// Reads an earlier run's report.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read(path: &Path) -> Result<Report, BaselineError> {
    let failed = |source| BaselineError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| BaselineError::NoReport {
        path: path.to_owned(),
        source,
    })
}

/// Compares a run with a baseline.
///
/// # Errors
/// Machine or load differ.
pub fn compare(baseline: &Report, run: &Report) -> Result<Comparison, BaselineError> {
    let differences = differences(
        (&baseline.machine, &baseline.load),
        (&run.machine, &run.load),
    );
    if !differences.is_empty() {
        return Err(BaselineError::Unlike { differences });
    }
    let (old, new) = (&baseline.figures, &run.figures);
    let mut rows = vec![
        (
            "answers a second",
            old.answers_per_second,
            new.answers_per_second,
        ),
        (
            "good answers a second",
            old.goodput_per_second,
            new.goodput_per_second,
        ),
        (
            "tokens a second",
            old.tokens_per_second,
            new.tokens_per_second,
        ),
        ("failures", old.failures() as f64, new.failures() as f64),
    ];
    type Of = fn(&Percentiles) -> f64;
    let mut add =
        |old: &Option<Percentiles>, new: &Option<Percentiles>, all: [(&'static str, Of); 2]| {
            if let (Some(old), Some(new)) = (old, new) {
                rows.extend(all.map(|(name, of)| (name, of(old), of(new))));
            }
        };
    let (p50, p95): (Of, Of) = (|one| one.p50, |one| one.p95);
    add(
        &old.ttft_ms,
        &new.ttft_ms,
        [("first text, ms, p50", p50), ("first text, ms, p95", p95)],
    );
    add(
        &old.itl_ms,
        &new.itl_ms,
        [
            ("between pieces, ms, p50", p50),
            ("between pieces, ms, p95", p95),
        ],
    );
    add(
        &old.total_ms,
        &new.total_ms,
        [
            ("whole answer, ms, p50", p50),
            ("whole answer, ms, p95", p95),
        ],
    );
    Ok(Comparison { rows })
}

/// What differs between two machines and loads, with both values.
pub fn differences(old: (&Machine, &Load), new: (&Machine, &Load)) -> Vec<String> {
    let both = |(machine, load): (&Machine, &Load)| {
        let machine = serde_json::to_value(machine).unwrap_or_default();
        [machine, serde_json::to_value(load).unwrap_or_default()]
    };
    let pairs = both(old).into_iter().zip(both(new));
    pairs.flat_map(|(old, new)| differing(&old, &new)).collect()
}

/// The fields of two objects that differ.
fn differing(old: &Value, new: &Value) -> Vec<String> {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Vec::new();
    };
    let differing = new.iter().filter_map(|(name, new)| {
        let old = old.get(name).unwrap_or(&Value::Null);
        (old != new).then(|| format!("{name} was {old} and is {new}"))
    });
    differing.collect()
}

impl Display for Comparison {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            to,
            "{:<26}{:>12}{:>12}{:>9}",
            "", "baseline", "now", "ratio"
        )?;
        for (name, old, new) in &self.rows {
            write!(to, "{name:<26}{old:>12.2}{new:>12.2}")?;
            match new / old {
                ratio if ratio.is_finite() => writeln!(to, "{ratio:>9.2}")?,
                _ => writeln!(to)?,
            }
        }
        Ok(())
    }
}
