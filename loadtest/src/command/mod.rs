//! The command line.

mod compare;
mod options;
mod run;
mod sweep;

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
    /// One pass against two: the same conversations by different methods
    Compare(compare::CompareOptions),
    /// Writes the table of an earlier comparison into a text file
    Table(compare::TableOptions),
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
                What::Compare(options) => compare::compare(options).await,
                What::Table(options) => compare::table(&options),
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
