//! `onegen-loadtest knees`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::run::write;
use crate::baseline::differences;
use crate::report::{SweepReport, knees_page};

/// Sweeps of several servers side by side.
#[derive(Args)]
pub(super) struct KneesOptions {
    /// Servers' names, each with the --json of a sweep of it: NAME=FILE
    #[arg(required = true, num_args = 2.., value_parser = named)]
    sweeps: Vec<(String, PathBuf)>,

    /// Where the page goes
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("wanted is NAME=FILE, as in onegen=a.json".into()),
    }
}

/// Writes a page with all sweeps. The machine and the load must be the same; rates and fields that only one server knows
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
    write(&options.html, knees_page(&sweeps)?.as_bytes())
}
