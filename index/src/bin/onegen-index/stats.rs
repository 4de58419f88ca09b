//! `onegen-index stats`: verifies an index and says what it is.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use indicatif::{HumanBytes, HumanDuration};
use onegen_index::{GraphState, Index};
use serde_json::json;

use crate::Format;

/// Verify an index and say what it is and what made it
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
    let bytes = manifest.bytes();
    let search = match index.graph_state() {
        GraphState::Exact => "exact scan",
        GraphState::Loaded => "graph",
        GraphState::Rebuilt { .. } => "graph, built again because its file is damaged",
    };
    let mut out = stdout().lock();
    if arguments.format.json {
        let report = json!({
            "dir": arguments.dir.display().to_string(),
            "format_version": manifest.format_version,
            "created_unix_seconds": manifest.created_unix_seconds,
            "passages": manifest.passages,
            "vectors": manifest.vectors,
            "dimension": manifest.dimension,
            "metric": manifest.metric,
            "search": search,
            "graph": manifest.graph,
            "fingerprints": manifest.fingerprints,
            "bytes": bytes,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    let created = UNIX_EPOCH + Duration::from_secs(manifest.created_unix_seconds);
    let age = SystemTime::now()
        .duration_since(created)
        .unwrap_or_default();
    writeln!(out, "passages    {}", manifest.passages)?;
    writeln!(
        out,
        "vectors     {} of {} dimensions",
        manifest.vectors, manifest.dimension
    )?;
    writeln!(out, "search      {search}")?;
    if let Some(graph) = &manifest.graph {
        writeln!(
            out,
            "graph       m {}, ef_construction {}; recall@10 {:.3} at ef {}",
            graph.parameters.m,
            graph.parameters.ef_construction,
            graph.calibration.recall_at_10,
            graph.calibration.ef_search
        )?;
    }
    writeln!(out, "built       {} ago", HumanDuration(age))?;
    writeln!(out, "model       {}", manifest.fingerprints.name)?;
    writeln!(out, "  weights   {}", manifest.fingerprints.model)?;
    writeln!(out, "  tokenizer {}", manifest.fingerprints.tokenizer)?;
    writeln!(out, "  template  {}", manifest.fingerprints.template)?;
    writeln!(out, "size        {}", HumanBytes(bytes))?;
    Ok(())
}
