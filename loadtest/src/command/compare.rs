//! `onegen-loadtest compare`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::options::check_host;
use super::run::write_json;
use crate::client::Client;
use crate::compare::{Grid, Method, Point, Servers, compare as measure};
use crate::report::Machine;

/// One pass against two, on servers of the same weights.
#[derive(Args)]
pub(super) struct CompareOptions {
    /// A OneGen server with block attention. Passages are put into its default collection, so it should be one of its own
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    onegen: Url,

    /// Another OneGen server, with a model as large, that embeds and finds for the other: two models
    #[arg(long, value_name = "URL")]
    embedder: Option<Url>,

    /// llama.cpp's server with the same weights
    #[arg(long, value_name = "URL", requires = "llama_cpp_embeddings")]
    llama_cpp: Option<Url>,

    /// llama.cpp's server with --embeddings and the same weights
    #[arg(long, value_name = "URL", requires = "llama_cpp")]
    llama_cpp_embeddings: Option<Url>,

    /// Tokens of a question
    #[arg(long, value_delimiter = ',', default_value = "32,64,128,256,512,1024")]
    questions: Vec<usize>,

    /// Tokens of a passage
    #[arg(long, value_delimiter = ',', default_value = "30,128")]
    passages: Vec<usize>,

    /// Every how many rounds a passage is read
    #[arg(long, value_delimiter = ',', default_value = "1")]
    every: Vec<usize>,

    /// Tokens of an answer
    #[arg(long, default_value = "10")]
    answer: usize,

    /// Rounds of a conversation
    #[arg(long, default_value = "5")]
    rounds: usize,

    /// Conversations of each method at each point
    #[arg(long, default_value = "3")]
    repetitions: usize,

    /// Allow another machine than this one
    #[arg(long)]
    remote: bool,

    /// Where all rounds go
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A comparison, as it is written to a file.
#[derive(Serialize, Deserialize)]
pub(super) struct CompareReport {
    pub(super) version: String,
    pub(super) machine: Machine,
    pub(super) grid: Grid,
    pub(super) points: Vec<Point>,
}

const HEAD: &str = "| question | passage | every | method | positions | ms | first text, ms | times one pass, kept |\n\
    |---|---|---|---|---|---|---|---|\n";

/// Measures all methods and prints a table.
pub(super) async fn compare(options: CompareOptions) -> Result<()> {
    let grid = Grid {
        questions: options.questions,
        passages: options.passages,
        every: options.every,
        answer: options.answer,
        rounds: options.rounds,
        repetitions: options.repetitions,
    };
    let lengths = grid
        .questions
        .iter()
        .chain(&grid.passages)
        .chain(&grid.every);
    ensure!(
        lengths
            .chain([&grid.answer, &grid.rounds, &grid.repetitions])
            .all(|one| *one > 0),
        "lengths, --every, --rounds and --repetitions begin at 1"
    );
    let remote = options.remote;
    let servers = Servers {
        onegen: client(options.onegen, remote).await?,
        embedder: match options.embedder {
            Some(url) => Some(client(url, remote).await?),
            None => None,
        },
        llama_cpp: match (options.llama_cpp, options.llama_cpp_embeddings) {
            (Some(text), Some(embeddings)) => Some((
                client(text, remote).await?,
                client(embeddings, remote).await?,
            )),
            _ => None,
        },
    };
    print!("{HEAD}");
    let points = measure(&servers, &grid, |points| print!("{}", rows(points))).await;
    let points = points.map_err(anyhow::Error::msg)?;
    let report = CompareReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::this(),
        grid,
        points,
    };
    write_json(options.json.as_deref(), &report)
}

/// A client of the first model that a server lists.
pub(super) async fn client(url: Url, remote: bool) -> Result<Client> {
    check_host(&url, remote)?;
    let of_model = |model| {
        Client::new(
            url.clone(),
            model,
            None,
            Map::new(),
            Duration::from_secs(120),
        )
    };
    let models = of_model(String::new())?.models().await;
    let models = models.map_err(|reason| anyhow::anyhow!("{url} cannot be measured: {reason}"))?;
    let model = models
        .into_iter()
        .next()
        .with_context(|| format!("{url} lists no model"))?;
    Ok(of_model(model)?)
}

impl CompareReport {
    /// The table, with its head.
    pub(super) fn table(&self) -> String {
        let rows = self.points.chunk_by(is_beside).map(rows);
        format!("{HEAD}{}", rows.collect::<String>())
    }
}

fn is_beside(one: &Point, other: &Point) -> bool {
    (one.question, one.passage, one.every) == (other.question, other.passage, other.every)
}

/// The rows of one length of questions and passages: medians over all rounds, with the interval in which 95 of 100 of
/// them lie, and how many times as long as one pass with a kept passage each method takes.
fn rows(points: &[Point]) -> String {
    let total = |point: &Point| point.rounds.total_ms();
    let kept = points
        .iter()
        .find(|point| point.method == Method::OnePassKept);
    let kept = kept.map_or(f64::NAN, total);
    let row = |point: &Point| {
        format!(
            "| {} | {} | {} | {} | {:.0} | {} | {:.1} | {:.2} |\n",
            point.question,
            point.passage,
            point.every,
            point.method.name(),
            point.rounds.median(|round| round.forwarded as f64),
            point.rounds.total_and_interval(),
            point.rounds.median(|round| round.ttft_ms),
            total(point) / kept,
        )
    };
    points.iter().map(row).collect()
}
