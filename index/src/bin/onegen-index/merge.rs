//! `onegen-index merge`: joins indexes of the parts of a corpus.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use indicatif::HumanBytes;
use onegen_index::{Index, merge_shards};
use serde_json::json;

use crate::Format;

/// Join the indexes of all parts of a corpus, which `build --shard` made, or of several corpora. Nothing is embedded
/// again; of documents with the same id the first one stays
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the index goes; an index that is there is replaced once the new one is whole
    out: PathBuf,

    /// The indexes that are joined; they stay as they are. On one file system they share their files with the new one
    #[arg(required = true)]
    shards: Vec<PathBuf>,

    /// Then write one segment with one graph, as `compact` does: equal to an index that was built in one go. It takes
    /// longer, and searches are faster
    #[arg(long, env = "ONEGEN_COMPACT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    compact: bool,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    merge_shards(&arguments.out, &arguments.shards)?;
    let index = if arguments.compact {
        let index = Index::open_for_changes(&arguments.out)?;
        index.compact()?;
        index
    } else {
        Index::open(&arguments.out)?
    };
    let seconds = start.elapsed().as_secs_f64();
    let stats = index.stats();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": index.dir(),
            "shards": arguments.shards.len(),
            "passages": stats.passages,
            "vectors": stats.vectors,
            "segments": stats.segments.len(),
            "bytes": stats.bytes,
            "seconds": seconds,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} passages of {} indexes in {} segments, {}, in {seconds:.1} s",
        index.dir().display(),
        stats.passages,
        arguments.shards.len(),
        stats.segments.len(),
        HumanBytes(stats.bytes)
    )?;
    Ok(())
}
