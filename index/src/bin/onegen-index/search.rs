//! `onegen-index search`: finds the passages nearest to a text.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use onegen_index::{Filter, Passage, SearchOptions};
use serde::Serialize;

use crate::Format;
use crate::model::{ModelArguments, check_model};
use crate::place::{Place, place};

/// Find the passages nearest to a text, embedded as a user's question
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The index, or a collection as in postgres://USER@HOST/DATABASE?table=wiki or milvus://HOST:19530/wiki
    #[arg(value_parser = place())]
    dir: Place,

    /// The text
    text: String,

    /// Passages to find
    #[arg(short, env = "ONEGEN_K", default_value_t = 5)]
    k: usize,

    /// Only passages with such metadata: key=value, also != > >= < <= and key=["a","b"], or a filter
    /// as JSON, as in {"type":"eq","key":"year","value":1821}; of several all must hold
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,

    /// Cosine that a passage must have at least
    #[arg(
        long,
        env = "ONEGEN_MIN_SCORE",
        value_name = "SCORE",
        allow_negative_numbers = true
    )]
    min_score: Option<f32>,

    /// Compare every vector instead of searching through the graph
    #[arg(long, env = "ONEGEN_EXACT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    exact: bool,

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
    hits: Vec<PrintedHit>,
}

#[derive(Serialize)]
struct PrintedHit {
    score: f32,
    #[serde(flatten)]
    passage: Passage,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let options = SearchOptions {
        k: arguments.k,
        filter: (!arguments.filter.is_empty()).then(|| Filter::all(arguments.filter.clone())),
        min_score: arguments.min_score,
        exact: arguments.exact,
    };
    let store = arguments.dir.open()?;
    let model = arguments.model.load()?;
    check_model(&store, &model)?;

    let milliseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    let query = model
        .embed_query(&arguments.text)
        .context("cannot embed the query")?;
    let embed_ms = milliseconds(start);
    let start = Instant::now();
    let hits = store.search(&query, &options)?;
    let search_ms = milliseconds(start);

    let mut out = stdout().lock();
    if arguments.format.json {
        let hits = hits
            .into_iter()
            .map(|hit| PrintedHit {
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
