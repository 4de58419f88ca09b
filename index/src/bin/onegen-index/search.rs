//! `onegen-index search`: finds the passages nearest to a text.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use onegen_index::{Index, Passage};
use serde::Serialize;

use crate::Format;
use crate::embedder::{Embedder, ModelArguments};

/// Find the passages nearest to a text, embedded as a user's question
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index
    dir: PathBuf,

    /// The text
    text: String,

    /// Passages to find
    #[arg(short, env = "ONEGEN_K", default_value_t = 5)]
    k: usize,

    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report<'a> {
    query: &'a str,
    embed_ms: f64,
    search_ms: f64,
    hits: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    score: f32,
    #[serde(flatten)]
    passage: Passage,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let index = Index::open(&arguments.dir)?;
    let embedder = Embedder::load(&arguments.model)?;
    index
        .check_fingerprints(embedder.fingerprints())
        .context("name the index's own model with --model")?;

    let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let query = embedder.query(&arguments.text)?;
    let embed_ms = milliseconds(start);
    let start = Instant::now();
    let hits = index.search(&query, arguments.k)?;
    let search_ms = milliseconds(start);

    let mut out = stdout().lock();
    if arguments.format.json {
        let hits = hits
            .into_iter()
            .map(|hit| Found {
                score: hit.score,
                passage: hit.passage,
            })
            .collect();
        let report = Report {
            query: &arguments.text,
            embed_ms,
            search_ms,
            hits,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    for (rank, hit) in hits.iter().enumerate() {
        let Passage {
            id,
            title,
            text,
            url,
            ..
        } = &hit.passage;
        writeln!(
            out,
            "{}. {:.4}  {title} [{id}] {}",
            rank + 1,
            hit.score,
            url.as_deref().unwrap_or_default()
        )?;
        writeln!(out, "   {}", beginning(text))?;
    }
    Ok(())
}

/// A text's beginning on one line.
fn beginning(text: &str) -> String {
    const CHARACTERS: usize = 160;
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(CHARACTERS) {
        line.truncate(end);
        line.push('…');
    }
    line
}
