//! `onegen-index build`: embeds a corpus and writes its index.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use onegen_index::{BuildOptions, Corpus, IngestOptions, build_from_corpus};
use serde_json::json;

use crate::Format;
use crate::embedder::{Embedder, ModelArguments};
use crate::progress::Progress;

/// Embed a corpus and write its index
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The corpus: on each line a JSON object with id (or _id), title, text, and perhaps url and
    /// metadata
    corpus: PathBuf,

    #[command(flatten)]
    model: ModelArguments,

    /// Where the index goes; an index that is there is replaced once the new one is whole
    #[arg(long, env = "ONEGEN_OUT", value_name = "DIR")]
    out: PathBuf,

    /// Stop at the first bad line instead of reporting it and going on
    #[arg(long, env = "ONEGEN_STRICT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    strict: bool,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let in_corpus = || format!("cannot read the corpus {}", arguments.corpus.display());
    let corpus = Corpus::open(&arguments.corpus).with_context(in_corpus)?;
    let corpus_bytes = fs::metadata(&arguments.corpus)
        .with_context(in_corpus)?
        .len();
    let embedder = Embedder::load(&arguments.model)?;
    let options = IngestOptions {
        strict: arguments.strict,
        ..IngestOptions::new(BuildOptions::new(
            embedder.dimension(),
            embedder.fingerprints().clone(),
        ))
    };

    let mut progress = Progress::new(corpus_bytes);
    let embed = |passages: &[_]| embedder.passages(passages);
    let built = build_from_corpus(corpus, &arguments.out, options, embed, |event| {
        progress.on(&event)
    });
    progress.clear();
    let report =
        built.with_context(|| format!("no index was built from {}", arguments.corpus.display()))?;

    let seconds = progress.seconds();
    let manifest = &report.manifest;
    let rate = f64::from(manifest.passages) / seconds;
    let bytes = manifest.bytes();
    let dir = arguments.out.display();
    if arguments.format.json {
        let report = json!({
            "dir": dir.to_string(),
            "passages": manifest.passages,
            "vectors": manifest.vectors,
            "bad_lines": report.bad_lines,
            "bytes": bytes,
            "seconds": seconds,
            "passages_per_second": rate,
        });
        writeln!(stdout(), "{report}")?;
    } else {
        let (passages, vectors, bad) = (manifest.passages, manifest.vectors, report.bad_lines);
        writeln!(
            stdout(),
            "{dir}: {passages} passages, {vectors} vectors, {bytes} bytes, in {seconds:.1} s ({rate:.0} passages/s); \
             {bad} bad lines skipped"
        )?;
    }
    Ok(())
}
