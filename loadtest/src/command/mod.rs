//! The command line.

mod compare;
mod compare_linking;
mod knees;
mod options;
mod run;
mod sweep;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Puts load on a server that speaks OpenAI's chat API, and measures how it bears it.
#[derive(Parser)]
#[command(name = "onegen-loadtest", version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// One load, its figures, and a report
    Run(run::RunOptions),
    /// The same load at one rate after another, until the server no longer bears it
    Sweep(sweep::SweepOptions),
    /// Sweeps of several servers in one picture
    Knees(knees::KneesOptions),
    /// One pass against two: the same conversations by different methods
    Compare(compare::CompareOptions),
    /// Entity linking in one pass against two, by the number of mentions
    CompareLinking(compare_linking::CompareLinkingOptions),
    /// Writes the table of an earlier comparison into a text file
    Table(table::TableOptions),
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let command = Command::parse();
    // One thread takes as little as possible from the server, which may be on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(async {
            match command.what {
                What::Run(options) => run::run(options).await,
                What::Sweep(options) => sweep::sweep(options).await,
                What::Knees(options) => knees::knees(&options),
                What::Compare(options) => compare::compare(options).await,
                What::CompareLinking(options) => compare_linking::compare_linking(options).await,
                What::Table(options) => table::table(&options),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onegen-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
