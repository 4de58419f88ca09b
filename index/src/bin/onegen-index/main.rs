//! `onegen-index`: builds, changes, searches and verifies an index. It embeds with the model that
//! will serve the index.
//!
//! Exit status: 0 for success, 2 for wrong usage, 1 for every other error.

mod add;
mod build;
mod compact;
mod delete;
mod export;
mod get;
mod merge;
mod model;
mod place;
mod progress;
mod pull;
mod push;
mod search;
mod source;
mod stats;
mod verify;

use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser, Subcommand};
use onegen_pull::PullArguments;
use tracing_subscriber::EnvFilter;

/// Builds, changes and searches an index of passages, embedded by a OneGen model.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Arguments),
    Add(add::Arguments),
    Delete(delete::Arguments),
    Search(search::Arguments),
    Get(get::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
    Compact(compact::Arguments),
    Merge(merge::Arguments),
    Push(push::Arguments),
    Export(export::Arguments),
    /// Fetch the base that a model needs, once: `pull smol`, then `--model smol`
    Pull(PullArguments),
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
    // `parse` ends the process with status 2 if the usage is wrong.
    let result = match Arguments::parse().command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Add(arguments) => add::run(&arguments),
        Command::Delete(arguments) => delete::run(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Compact(arguments) => compact::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Push(arguments) => push::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Pull(arguments) => pull::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
