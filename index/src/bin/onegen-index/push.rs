//! `onegen-index push`: puts an index into a database.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use onegen_index::{Index, PushProgress, RemoteAddress, RemoteOptions, push};
use serde_json::json;

use crate::Format;

/// Put the passages and vectors of an index into a table of PostgreSQL with pgvector or into a collection of Milvus,
/// which is made for them. A push that was interrupted goes on when it is started again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    /// Where to, as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki. A password can be in
    /// PGPASSWORD or MILVUS_PASSWORD
    #[arg(
        long,
        env = "ONEGEN_TO",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    to: RemoteAddress,

    #[command(flatten)]
    graph: GraphArguments,

    #[command(flatten)]
    format: Format,
}

#[derive(clap::Args)]
pub(crate) struct GraphArguments {
    /// MiB that PostgreSQL may use to build the graph; with less than the graph takes (4 bytes a dimension and 600
    /// a vector) it takes many times as long
    #[arg(
        long,
        env = "ONEGEN_GRAPH_MEMORY_MB",
        value_name = "MB",
        default_value_t = RemoteOptions::default().graph_memory_mb
    )]
    graph_memory_mb: u64,
}

/// What a push has done.
pub(crate) struct Pushed {
    passages: u64,
    /// Seconds until all passages were copied.
    copied: f64,
    /// Seconds until the graph was built too.
    pub(crate) seconds: f64,
}

/// Puts an index into a database, and shows the progress.
pub(crate) fn put(index: &Index, to: &RemoteAddress, graph: &GraphArguments) -> Result<Pushed> {
    let bar = ProgressBar::new(index.passages());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let mut copied = 0.0;
    let options = RemoteOptions {
        graph_memory_mb: graph.graph_memory_mb,
        ..RemoteOptions::default()
    };
    let pushed = push(index, to, options, |progress| match progress {
        PushProgress::Passages(passages, total) => {
            bar.set_length(total);
            bar.set_position(passages);
            bar.set_message(format!("{passages} passages"));
            copied = start.elapsed().as_secs_f64();
        }
        PushProgress::Graph => bar.set_message("the graph is built"),
    });
    bar.finish_and_clear();
    let passages = pushed?.passages();
    Ok(Pushed {
        passages,
        copied,
        seconds: start.elapsed().as_secs_f64(),
    })
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let index = Index::open(&arguments.dir)?;
    let Pushed {
        passages,
        copied,
        seconds,
    } = put(&index, &arguments.to, &arguments.graph)?;
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
