//! `onegen-index push`: puts an index into a database.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use onegen_index::{Index, PushProgress, RemoteAddress, RemoteOptions, push};
use serde_json::json;

use crate::Format;

/// Put the passages and vectors of an index into a table of PostgreSQL with pgvector, which is made for them. A push
/// that was interrupted goes on when it is started again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    /// The table, as in postgres://USER@HOST/DATABASE?table=wiki. A password can be in PGPASSWORD
    #[arg(
        long,
        env = "ONEGEN_TO",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    to: RemoteAddress,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let index = Index::open(&arguments.dir)?;
    let bar = ProgressBar::new(index.passages());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let mut copied = 0.0;
    let pushed = push(
        &index,
        &arguments.to,
        RemoteOptions::default(),
        |progress| match progress {
            PushProgress::Passages(passages, total) => {
                bar.set_length(total);
                bar.set_position(passages);
                bar.set_message(format!("{passages} passages"));
                copied = start.elapsed().as_secs_f64();
            }
            PushProgress::Graph => bar.set_message("the graph is built"),
        },
    );
    bar.finish_and_clear();
    let pushed = pushed?;
    let seconds = start.elapsed().as_secs_f64();
    let passages = pushed.passages();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "to": arguments.to.to_string(),
            "passages": passages,
            "copy_seconds": copied,
            "seconds": seconds,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {passages} passages, copied in {copied:.1} s and indexed in {:.1} s",
        arguments.to,
        seconds - copied
    )?;
    Ok(())
}
