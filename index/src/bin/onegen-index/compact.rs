//! `onegen-index compact`: writes an index anew as one segment.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use indicatif::HumanBytes;
use onegen_index::Index;
use serde_json::json;

use crate::Format;

/// Write everything anew as one segment: without what was deleted, with a new graph
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let index = Index::open_for_changes(&arguments.dir)?;
    let before = index.stats();
    let start = Instant::now();
    index.compact()?;
    let seconds = start.elapsed().as_secs_f64();
    let after = index.stats();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": index.dir(),
            "passages": after.passages,
            "segments_before": before.segments.len(),
            "segments": after.segments.len(),
            "bytes_before": before.bytes,
            "bytes": after.bytes,
            "seconds": seconds,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {} passages, {} before, {} now, in {seconds:.1} s",
        index.dir().display(),
        after.passages,
        HumanBytes(before.bytes),
        HumanBytes(after.bytes)
    )?;
    Ok(())
}
