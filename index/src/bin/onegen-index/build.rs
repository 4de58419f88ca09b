//! `onegen-index build`: embeds a corpus and writes its index.

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use indicatif::HumanBytes;
use onegen_engine::PassageAttention;
use onegen_index::{
    BuildOptions, DocumentRules, Fingerprints, Index, IngestOptions, RemoteAddress, Shard,
    build_from_corpus,
};
use serde_json::json;

use crate::Format;
use crate::model::ModelArguments;
use crate::progress::Progress;
use crate::push::{GraphArguments, put};
use crate::source::SourceArguments;
use crate::stats::{describe, kept_json, kept_words};

/// Embed a corpus and write its index. A build that was interrupted goes on when it is started again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,

    #[command(flatten)]
    model: ModelArguments,

    /// Where the index goes; an index that is there is replaced once the new one is whole
    #[arg(long, env = "ONEGEN_OUT", value_name = "DIR")]
    out: PathBuf,

    /// Keep the keys and values that are computed for each passage, so that a server reads them instead of forwarding
    /// the passage when it is found. Only for models with block attention; the report says what it costs
    #[arg(long, env = "ONEGEN_KEEP_KV", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    keep_kv: bool,

    /// Index one of several parts of the corpus, as 2/8, so that several machines share the work; `merge` joins them
    #[arg(long, env = "ONEGEN_SHARD", value_name = "PART/PARTS")]
    shard: Option<Shard>,

    /// Put the finished index into PostgreSQL or Milvus too, as `push` does
    #[arg(
        long,
        env = "ONEGEN_TO",
        value_name = "ADDRESS",
        hide_env_values = true,
        conflicts_with = "shard"
    )]
    to: Option<RemoteAddress>,

    #[command(flatten)]
    graph: GraphArguments,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let source = &arguments.source;
    let corpus = match arguments.shard {
        None => source.open()?,
        Some(shard) => source.open()?.only(shard),
    };
    let model = arguments.model.load()?;
    let mut build = BuildOptions::new(model.hidden_size(), Fingerprints::from(&model));
    if arguments.keep_kv {
        let attention = model.tokens().onegen().passage_attention;
        ensure!(
            attention == PassageAttention::Block,
            "--keep-kv: the model {} has no block attention, so the keys and values of its passages depend on \
             what is before them; leave --keep-kv out",
            model.name()
        );
        build.passage_kv = Some(model.kv_fingerprint());
    }

    let mut progress = Progress::new(corpus.total_bytes());
    let options = IngestOptions {
        keep_kv: arguments.keep_kv,
        ..source.options(DocumentRules::default())?
    };
    let out = &arguments.out;
    let built = build_from_corpus(corpus, out, build, options, &model, |event| {
        progress.on(&event)
    });
    progress.clear();
    let (_, ingested) = built.with_context(|| {
        let left_out = progress.left_out();
        let corpus = source.path().display();
        if left_out.is_empty() {
            format!("no index was built from {corpus}")
        } else {
            format!("no index was built from {corpus}, of which is left out: {left_out}")
        }
    })?;

    let (seconds, rate) = (progress.seconds(), progress.rate(ingested.passages));
    let index = Index::open(out)?;
    let pushed = match &arguments.to {
        Some(to) => {
            let pushed = put(&index, to, &arguments.graph);
            Some(pushed.with_context(|| {
                format!("the index in {} is whole, but not in {to}", out.display())
            })?)
        }
        None => None,
    };
    let stats = index.stats();
    let searches: Vec<_> = stats.segments.iter().map(|s| describe(&s.search)).collect();
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": index.dir(),
            "shard": arguments.shard.map(|shard| shard.to_string()),
            "documents": ingested.documents,
            "passages": stats.passages,
            "vectors": stats.vectors,
            "search": searches,
            "bad_records": ingested.bad_records,
            "left_out": progress.left_out(),
            "bytes": stats.bytes,
            "passage_kv": kept_json(&stats),
            "seconds": seconds,
            "passages_per_second": rate,
            "to": arguments.to.as_ref().map(ToString::to_string),
            "push_seconds": pushed.map(|pushed| pushed.seconds),
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(out, "index       {}", index.dir().display())?;
    if let Some(shard) = arguments.shard {
        writeln!(out, "part        {shard} of the corpus")?;
    }
    writeln!(
        out,
        "passages    {} of {} documents, {} bad records skipped",
        stats.passages, ingested.documents, ingested.bad_records
    )?;
    for group in progress.left_out().groups() {
        writeln!(out, "left out    {group}")?;
    }
    writeln!(
        out,
        "vectors     {} of {} dimensions",
        stats.vectors,
        model.hidden_size()
    )?;
    for search in searches {
        writeln!(out, "search      {search}")?;
    }
    writeln!(out, "size        {}", HumanBytes(stats.bytes))?;
    if arguments.keep_kv {
        writeln!(out, "kept KV     {}", kept_words(&stats))?;
    }
    writeln!(out, "time        {seconds:.1} s, {rate:.0} passages/s")?;
    if let (Some(to), Some(pushed)) = (&arguments.to, pushed) {
        writeln!(out, "in          {to}, after {:.1} s", pushed.seconds)?;
    }
    Ok(())
}
