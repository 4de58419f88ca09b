//! The page: one file that needs nothing else.

use minijinja::{Environment, context};

use super::plots::{self, PlotError};
use super::{Report, SweepReport};
use crate::record::Record;

/// Why a page could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// A plot could not be drawn.
    #[error("cannot draw a plot: {0}")]
    Plot(#[from] PlotError),
    /// The template could not be rendered.
    #[error("cannot write the page: {0}")]
    Template(#[from] minijinja::Error),
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template("base.html", include_str!("base.html"))?;
    environment.add_template("run.html", include_str!("run.html"))?;
    environment.add_template("sweep.html", include_str!("sweep.html"))?;
    environment.add_template("knees.html", include_str!("knees.html"))?;
    // Three digits say all that is known.
    environment.add_filter("short", |value: f64| match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    });
    Ok(environment)
}

/// The page of a run.
///
/// # Errors
/// A plot cannot be drawn, or the page not be rendered.
pub fn run_page(report: &Report, records: &[Record]) -> Result<String, HtmlError> {
    let environment = environment()?;
    Ok(environment.get_template("run.html")?.render(context! {
        report,
        latencies => plots::latencies(records)?,
        over_time => plots::over_time(report)?,
    })?)
}

/// The page of a sweep.
///
/// # Errors
/// A plot cannot be drawn, or the page not be rendered.
pub fn sweep_page(report: &SweepReport) -> Result<String, HtmlError> {
    let environment = environment()?;
    Ok(environment.get_template("sweep.html")?.render(context! {
        report,
        knee => plots::knee(&report.steps)?,
    })?)
}

/// The page of several servers' sweeps, each with its name.
///
/// # Errors
/// A plot cannot be drawn, or the page not be rendered.
pub fn knees_page(sweeps: &[(String, SweepReport)]) -> Result<String, HtmlError> {
    let environment = environment()?;
    Ok(environment.get_template("knees.html")?.render(context! {
        sweeps,
        knees => plots::knees(sweeps)?,
    })?)
}
