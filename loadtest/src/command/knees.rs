//! `onegen-loadtest knees`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::run::write;
use super::table::put;
use crate::baseline::differences;
use crate::report::{SweepReport, knees_page};

/// Sweeps of several servers side by side.
#[derive(Args)]
pub(super) struct KneesOptions {
    /// Servers' names, each with the --json of a sweep of it: NAME=FILE
    #[arg(required = true, num_args = 2.., value_parser = named)]
    sweeps: Vec<(String, PathBuf)>,

    /// Where the page goes
    #[arg(long, value_name = "FILE", required_unless_present = "into")]
    html: Option<PathBuf>,

    /// The text file in which a table of them stands between <!-- knees --> and <!-- /knees -->
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("wanted is NAME=FILE, as in onegen=a.json".into()),
    }
}

/// Writes a page or a table with all sweeps. The machine and the load must be the same; rates and fields that only one server knows
/// may differ.
pub(super) fn knees(options: &KneesOptions) -> Result<()> {
    let mut sweeps: Vec<(String, SweepReport)> = Vec::new();
    for (name, path) in &options.sweeps {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut report: SweepReport = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no sweep of onegen-loadtest", path.display()))?;
        if let Some((_, first)) = sweeps.first() {
            report.load.rate = first.load.rate;
            report.load.planned = first.load.planned;
            report.load.extra = first.load.extra.clone();
            let differing = differences(
                (&first.machine, &first.load),
                (&report.machine, &report.load),
            );
            ensure!(
                differing.is_empty(),
                "{} is of another load or machine, so a picture would say nothing: {}",
                path.display(),
                differing.join("; ")
            );
        }
        sweeps.push((name.clone(), report));
    }
    if let Some(html) = &options.html {
        write(html, knees_page(&sweeps)?.as_bytes())?;
    }
    match &options.into {
        Some(into) => put(into, "knees", &table(&sweeps)),
        None => Ok(()),
    }
}

/// Good answers a second, with the 95th percentile of the first text in milliseconds: a row for each rate of the first
/// sweep, a column for each server.
fn table(sweeps: &[(String, SweepReport)]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let names = sweeps.iter().map(|(name, _)| name.clone());
    let mut table = line(["requests/s".to_owned()].into_iter().chain(names).collect());
    table += &line(vec!["---".to_owned(); sweeps.len() + 1]).replace(' ', "");
    let first = sweeps.first().map_or(&[][..], |(_, sweep)| &sweep.steps);
    for step in first {
        let cells = sweeps.iter().map(|(_, sweep)| cell(sweep, step.rate));
        let due = format!("{:.1}", step.due_per_second);
        table += &line([due].into_iter().chain(cells).collect());
    }
    table
}

/// What came of a rate; nothing where the server was not asked at it.
fn cell(sweep: &SweepReport, rate: f64) -> String {
    let step = sweep.steps.iter().find(|step| step.rate == rate);
    let Some(step) = step else {
        return String::new();
    };
    let good = step.figures.goodput_per_second;
    match &step.figures.ttft_ms {
        Some(ttft) => format!("{good:.2} ({:.0})", ttft.p95),
        None => format!("{good:.2}"),
    }
}
