//! `onegen-loadtest compare`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use reqwest::Url;
use serde::Serialize;
use serde_json::Map;

use super::options::check_host;
use super::run::write;
use crate::client::Client;
use crate::compare::{Grid, Method, Point, Servers, compare as measure};
use crate::report::Machine;

/// One pass against two, on servers of the same weights.
#[derive(Args)]
pub(super) struct CompareOptions {
    /// A OneGen server with block attention. Passages are put into its default collection, so it should be one of its own
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    onegen: Url,

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

#[derive(Serialize)]
struct CompareReport<'a> {
    version: &'static str,
    machine: Machine,
    grid: &'a Grid,
    points: &'a [Point],
}

/// Measures all methods and prints a table.
pub(super) async fn compare(options: CompareOptions) -> Result<()> {
    let grid = Grid {
        questions: options.questions,
        passages: options.passages,
        answer: options.answer,
        rounds: options.rounds,
        repetitions: options.repetitions,
    };
    let lengths = grid.questions.iter().chain(&grid.passages);
    ensure!(
        lengths
            .chain([&grid.answer, &grid.rounds, &grid.repetitions])
            .all(|one| *one > 0),
        "lengths, --rounds and --repetitions begin at 1"
    );
    let remote = options.remote;
    let servers = Servers {
        onegen: client(options.onegen, remote).await?,
        llama_cpp: match (options.llama_cpp, options.llama_cpp_embeddings) {
            (Some(text), Some(embeddings)) => Some((
                client(text, remote).await?,
                client(embeddings, remote).await?,
            )),
            _ => None,
        },
    };
    println!("| question | passage | method | positions | ms | first text, ms | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let points = measure(&servers, &grid, print).await;
    let points = points.map_err(anyhow::Error::msg)?;
    if let Some(path) = &options.json {
        let report = CompareReport {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::this(),
            grid: &grid,
            points: &points,
        };
        write(path, &serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

async fn client(url: Url, remote: bool) -> Result<Client> {
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

/// Prints the rows of a question's and a passage's length: medians, and how many times as long as one pass with a kept
/// passage each method takes.
fn print(points: &[Point]) {
    let total = |point: &Point| point.median(|round| round.total_ms);
    let kept = points
        .iter()
        .find(|point| point.method == Method::OnePassKept);
    let kept = kept.map_or(f64::NAN, total);
    for point in points {
        println!(
            "| {} | {} | {} | {:.0} | {:.1} | {:.1} | {:.2} |",
            point.question,
            point.passage,
            point.method.name(),
            point.median(|round| round.forwarded as f64),
            total(point),
            point.median(|round| round.ttft_ms),
            total(point) / kept,
        );
    }
}
