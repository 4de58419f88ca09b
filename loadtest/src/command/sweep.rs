//! `onegen-loadtest sweep`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::options::{LoadOptions, stop_on_ctrl_c};
use super::run::{write, write_json};
use crate::figures::Figures;
use crate::report::{Machine, SweepReport, sweep_page};
use crate::sweep::{Step, highest_borne};

/// One load at several rates.
#[derive(Args)]
pub(super) struct SweepOptions {
    #[command(flatten)]
    load: LoadOptions,

    /// Conversations that begin a second, ascending, as in 1,2,4,8
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16")]
    rates: Vec<f64>,

    /// Go on after the first rate that the server does not bear
    #[arg(long)]
    all: bool,

    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where the report goes as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Puts a load on a server at one rate after another.
pub(super) async fn sweep(options: SweepOptions) -> Result<()> {
    let rates = &options.rates;
    ensure!(
        rates.iter().all(|rate| *rate > 0.0) && rates.is_sorted() && !rates.is_empty(),
        "--rates wants rates above 0 in ascending order"
    );
    let loader = options.load.loader().await?;
    ensure!(
        !loader.is_trace(),
        "a trace has its own times; a sweep wants --arrivals"
    );
    let stop = stop_on_ctrl_c();
    let mut steps = Vec::new();
    let mut last_load = None;
    println!(
        "{:>15}{:>12}{:>12}{:>10}{:>12}{:>12}{:>8}",
        "conversations/s", "requests/s", "answers/s", "good/s", "ttft p50", "ttft p95", "failed"
    );
    for (seed, rate) in (loader.seed()..).zip(rates) {
        let (load, records) = loader.put(*rate, seed, stop.clone()).await?;
        let stopped = *stop.borrow();
        let figures = Figures::new(&records, &load.level);
        let step = Step::new(*rate, loader.duration(), figures);
        print(&step);
        let is_borne = step.is_borne(loader.ttft_ms());
        steps.push(step);
        last_load = Some(load);
        if stopped || (!is_borne && !options.all) {
            break;
        }
    }
    let highest = highest_borne(&steps, loader.ttft_ms()).map(|step| step.rate);
    match highest {
        Some(rate) => println!(
            "borne up to {rate} conversations a second: nothing failed, p95 of the first text within {} ms",
            loader.ttft_ms()
        ),
        None => println!("not even the lowest rate was borne"),
    }
    let Some(load) = last_load else { return Ok(()) };
    let report = SweepReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        target: loader.target.clone(),
        machine: Machine::this(),
        load,
        highest_borne: highest,
        steps,
    };
    write_json(options.json.as_deref(), &report)?;
    if let Some(path) = &options.html {
        write(path, sweep_page(&report)?.as_bytes())?;
    }
    Ok(())
}

fn print(step: &Step) {
    let ttft = step.figures.ttft_ms.as_ref();
    println!(
        "{:>15}{:>12.2}{:>12.2}{:>10.2}{:>12.1}{:>12.1}{:>8}",
        step.rate,
        step.due_per_second,
        step.figures.answers_per_second,
        step.figures.goodput_per_second,
        ttft.map_or(f64::NAN, |ttft| ttft.p50),
        ttft.map_or(f64::NAN, |ttft| ttft.p95),
        step.failures,
    );
}
