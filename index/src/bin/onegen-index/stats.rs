//! `onegen-index stats`: says what an index is and what made it.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use indicatif::{HumanBytes, HumanDuration};
use onegen_index::{Index, SegmentSearch, SegmentStats, Stats};
use serde_json::{Value, json};

use crate::Format;

/// Say what an index holds and what made it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let index = Index::open(&arguments.dir)?;
    let manifest = index.manifest();
    let stats = index.stats();
    let mut out = stdout().lock();
    if arguments.format.json {
        let segment = |segment: &SegmentStats| {
            json!({
                "passages": segment.passages,
                "deleted": segment.deleted,
                "vectors": segment.vectors,
                "search": describe(&segment.search),
            })
        };
        let report = json!({
            "dir": index.dir(),
            "format_version": manifest.format_version,
            "created_unix_seconds": manifest.created_unix_seconds,
            "passages": stats.passages,
            "vectors": stats.vectors,
            "deleted": stats.deleted,
            "in_log": stats.in_log,
            "dimension": manifest.dimension,
            "metric": manifest.metric,
            "graph": manifest.graph,
            "segments": stats.segments.iter().map(segment).collect::<Vec<_>>(),
            "metadata_fields": stats.fields,
            "fingerprints": manifest.fingerprints,
            "bytes": stats.bytes,
            "passage_kv": kept_json(&stats),
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    let created = UNIX_EPOCH + Duration::from_secs(manifest.created_unix_seconds);
    let age = SystemTime::now()
        .duration_since(created)
        .unwrap_or_default();
    writeln!(out, "passages    {}", stats.passages)?;
    writeln!(
        out,
        "vectors     {} of {} dimensions",
        stats.vectors, manifest.dimension
    )?;
    for segment in &stats.segments {
        writeln!(
            out,
            "segment     {} passages, {} deleted, {}",
            segment.passages,
            segment.deleted,
            describe(&segment.search)
        )?;
    }
    if stats.in_log > 0 {
        writeln!(out, "log         {} passages", stats.in_log)?;
    }
    if !stats.fields.is_empty() {
        let fields: Vec<_> = stats
            .fields
            .iter()
            .map(|(name, n)| format!("{name} ({n})"))
            .collect();
        writeln!(out, "metadata    {}", fields.join(", "))?;
    }
    writeln!(out, "built       {} ago", HumanDuration(age))?;
    writeln!(out, "model       {}", manifest.fingerprints.name)?;
    writeln!(out, "  weights   {}", manifest.fingerprints.model)?;
    writeln!(out, "  tokenizer {}", manifest.fingerprints.tokenizer)?;
    writeln!(out, "  template  {}", manifest.fingerprints.template)?;
    writeln!(out, "size        {}", HumanBytes(stats.bytes))?;
    if manifest.passage_kv.is_some() {
        writeln!(out, "kept KV     {}", kept_words(&stats))?;
    }
    Ok(())
}

/// What is kept with passages, for programs.
pub(crate) fn kept_json(stats: &Stats) -> Value {
    let (passages, bytes) = stats.passage_kv;
    json!({ "passages": passages, "bytes": bytes })
}

/// What is kept with passages, in words.
pub(crate) fn kept_words(stats: &Stats) -> String {
    let (passages, bytes) = stats.passage_kv;
    let each = HumanBytes(bytes / passages.max(1));
    format!(
        "of {passages} passages: {}, {each} a passage",
        HumanBytes(bytes)
    )
}

/// How a segment is searched, in words.
pub(crate) fn describe(search: &SegmentSearch) -> String {
    match search {
        SegmentSearch::Scan => "scanned exactly: recall@10 is 1".into(),
        SegmentSearch::Graph(measured) => format!(
            "graph: recall@10 {:.3} against an exact scan of a sample, with ef_search {}",
            measured.recall_at_10, measured.ef_search
        ),
        SegmentSearch::GraphDamaged { reason } => {
            format!("scanned exactly, because its graph is damaged ({reason})")
        }
    }
}
