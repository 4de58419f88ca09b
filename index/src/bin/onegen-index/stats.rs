//! `onegen-index stats`: says what an index is and what made it.

use std::io::{self, Write, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use indicatif::{HumanBytes, HumanDuration};
use onegen_index::{Fingerprints, RemoteCollection, SegmentSearch, SegmentStats, Stats, Store};
use serde_json::{Value, json};

use crate::Format;
use crate::place::{Place, place};

/// Say what an index holds and what made it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    #[command(flatten)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = arguments.dir.open()?;
    let index = match &store {
        Store::Directory(index) => index,
        Store::Remote(collection) => return remote(collection, &arguments.format),
    };
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
    let age = age(manifest.created_unix_seconds);
    writeln!(out, "built       {} ago", HumanDuration(age))?;
    print_fingerprints(&mut out, &manifest.fingerprints)?;
    writeln!(out, "size        {}", HumanBytes(stats.bytes))?;
    if manifest.passage_kv.is_some() {
        writeln!(out, "kept KV     {}", kept_words(&stats))?;
    }
    Ok(())
}

/// What a collection in a database holds and what made it.
fn remote(collection: &RemoteCollection, format: &Format) -> Result<()> {
    let (passages, bytes) = (collection.passages(), collection.bytes()?);
    let created = collection.created_unix_seconds();
    let fingerprints = collection.fingerprints();
    let mut out = stdout().lock();
    if format.json {
        let report = json!({
            "address": collection.address().to_string(),
            "created_unix_seconds": created,
            "passages": passages,
            "dimension": collection.dimension(),
            "fingerprints": fingerprints,
            "bytes": bytes,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    writeln!(out, "passages    {passages}")?;
    writeln!(out, "dimensions  {}", collection.dimension())?;
    writeln!(out, "pushed      {} ago", HumanDuration(age(created)))?;
    print_fingerprints(&mut out, fingerprints)?;
    if let Some(bytes) = bytes {
        writeln!(out, "size        {}", HumanBytes(bytes))?;
    }
    Ok(())
}

fn age(created_unix_seconds: u64) -> Duration {
    let created = UNIX_EPOCH + Duration::from_secs(created_unix_seconds);
    SystemTime::now()
        .duration_since(created)
        .unwrap_or_default()
}

fn print_fingerprints(out: &mut impl Write, fingerprints: &Fingerprints) -> io::Result<()> {
    writeln!(out, "model       {}", fingerprints.name)?;
    writeln!(out, "  weights   {}", fingerprints.model)?;
    writeln!(out, "  tokenizer {}", fingerprints.tokenizer)?;
    writeln!(out, "  template  {}", fingerprints.template)
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
        SegmentSearch::Graph(measured) => {
            let far = measured.far.map(|far| {
                format!(
                    "; {:.3} with {} for queries that have nothing near them",
                    far.recall_at_10, far.ef_search
                )
            });
            format!(
                "graph: recall@10 {:.3} against an exact scan of a sample, with ef_search {}{}",
                measured.recall_at_10,
                measured.ef_search,
                far.unwrap_or_default()
            )
        }
        SegmentSearch::GraphDamaged { reason } => {
            format!("scanned exactly, because its graph is damaged ({reason})")
        }
    }
}
