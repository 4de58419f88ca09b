//! `onegen-index`: builds, searches and describes an index, embedding with the model that serves
//! it.
//!
//! Exit status: 0 if it did what was asked, 2 for wrong usage, 1 for the rest.

mod build;
mod embedder;
mod progress;
mod search;
mod stats;

use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Builds and searches an index of passages, embedded by a OneGen model.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Arguments),
    Search(search::Arguments),
    Stats(stats::Arguments),
}

/// How a command reports.
#[derive(clap::Args)]
struct Format {
    /// Report as JSON
    #[arg(long, env = "ONEGEN_JSON", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    json: bool,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // Wrong usage ends here, with status 2.
    let result = match Arguments::parse().command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
