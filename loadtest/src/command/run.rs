//! `onegen-loadtest run`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::options::{LoadOptions, stop_on_ctrl_c};
use crate::baseline;
use crate::figures::{Figures, Percentiles};
use crate::idle::IdleFigures;
use crate::record::Record;
use crate::report::{Report, run_page};

/// One load.
#[derive(Args)]
pub(super) struct RunOptions {
    #[command(flatten)]
    load: LoadOptions,

    /// Conversations that begin a second
    #[arg(long, default_value = "1")]
    rate: f64,

    /// Conversations that have a turn before the load, are idle while it lasts, and of which --resumed go on after it
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    idle: usize,

    /// How many of the --idle conversations go on
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    resumed: usize,

    /// Where the report goes, to be a --baseline later
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where the report goes as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Where every request goes, as JSON lines
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,

    /// The --json of an earlier run with the same load on the same machine, to compare with
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// Puts a load on a server and reports what came of it.
pub(super) async fn run(options: RunOptions) -> Result<()> {
    // A file that is no baseline is better known before the load than after it.
    let baseline = options.baseline.as_deref().map(baseline::read);
    let baseline = baseline.transpose()?;
    let loader = options.load.loader().await?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    let began = began.map_or(0, |since| since.as_secs());
    let idle = loader.begin_idle(options.idle).await;
    let (mut load, records) = loader
        .put(options.rate, loader.seed(), stop_on_ctrl_c())
        .await?;
    load.idle = options.idle;
    let broken = &loader.dataset.broken;
    let mut report = Report::new(loader.target.clone(), load, broken, &records, began);
    if let Some(idle) = idle {
        report.idle = Some(loader.resume_idle(idle, options.resumed).await);
    }
    print(&report.figures);
    report.idle.iter().for_each(print_idle);
    if broken.count > 0 {
        println!("{} lines of the dataset could not be read:", broken.count);
        broken.named.iter().for_each(|line| println!("  {line}"));
    }
    write_json(options.json.as_deref(), &report)?;
    if let Some(path) = &options.html {
        write(path, run_page(&report, &records)?.as_bytes())?;
    }
    if let Some(path) = &options.records {
        write_records(path, &records)?;
    }
    if let Some(baseline) = baseline {
        print!("\n{}", baseline::compare(&baseline, &report)?);
    }
    Ok(())
}

/// Writes a file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a report as JSON, where a file for it is named.
pub(super) fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    match path {
        Some(path) => write(path, &serde_json::to_vec_pretty(report)?),
        None => Ok(()),
    }
}

fn write_records(path: &Path, records: &[Record]) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for record in records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        Ok(file.flush()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn print(figures: &Figures) {
    let outcomes = figures.outcomes.iter();
    let outcomes: Vec<_> = outcomes
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    println!(
        "{} requests in {:.1} s: {}",
        figures.requests,
        figures.seconds,
        outcomes.join(", ")
    );
    for (reason, count) in &figures.reasons {
        println!("  {count} times: {reason}");
    }
    println!(
        "{:.2} answers/s, {:.2} of them within the service level; {:.0} tokens/s; {:.0}% of {} prompt tokens cached",
        figures.answers_per_second,
        figures.goodput_per_second,
        figures.tokens_per_second,
        figures.cached_share * 100.0,
        figures.prompt_tokens,
    );
    if !figures.passage_kv.is_empty() {
        let kinds = figures.passage_kv.iter();
        let kinds: Vec<_> = kinds
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        println!("passages: {}", kinds.join(", "));
    }
    println!(
        "{:<16}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "ms", "count", "p50", "p90", "p95", "p99", "max"
    );
    let rows: [(&str, &Option<Percentiles>); 6] = [
        ("first text", &figures.ttft_ms),
        ("between pieces", &figures.itl_ms),
        ("whole answer", &figures.total_ms),
        ("search", &figures.search_ms),
        ("splice", &figures.splice_ms),
        ("sent late", &figures.late_ms),
    ];
    for (name, values) in rows {
        if let Some(one) = values {
            println!(
                "{name:<16}{:>9}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
                one.count, one.p50, one.p90, one.p95, one.p99, one.max
            );
        }
    }
}

fn print_idle(idle: &IdleFigures) {
    println!(
        "{} conversations were idle meanwhile ({} failed before); {} went on, {} of them with their tokens cached, {} failed",
        idle.begun, idle.failed, idle.resumed, idle.cached, idle.not_resumed
    );
    if let Some(ttft) = &idle.ttft_ms {
        println!(
            "their first text: p50 {:.1} ms, p95 {:.1} ms",
            ttft.p50, ttft.p95
        );
    }
}
