//! `onegen-loadtest compare`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use reqwest::Url;
use serde::{Deserialize, Serialize};
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

/// A table out of what was measured before.
#[derive(Args)]
pub(super) struct TableOptions {
    /// The --json of a comparison
    json: PathBuf,

    /// The text file in which the table stands between <!-- comparison --> and <!-- /comparison -->
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct CompareReport {
    version: String,
    machine: Machine,
    grid: Grid,
    points: Vec<Point>,
}

const HEAD: &str = "| question | passage | every | method | positions | ms | first text, ms | times one pass, kept |\n\
    |---|---|---|---|---|---|---|---|\n";
const MARKS: [&str; 2] = ["<!-- comparison -->\n", "<!-- /comparison -->"];

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
    if let Some(path) = &options.json {
        let report = CompareReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::this(),
            grid,
            points,
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

/// Writes a comparison's table into a text file.
pub(super) fn table(options: &TableOptions) -> Result<()> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let report: CompareReport = serde_json::from_str(&read(&options.json)?)
        .with_context(|| format!("{} is no comparison", options.json.display()))?;
    let text = read(&options.into)?;
    let table = report
        .points
        .chunk_by(is_beside)
        .map(rows)
        .collect::<String>();
    let [open, close] = MARKS.map(|mark| text.find(mark));
    let (Some(open), Some(close)) = (open, close) else {
        bail!(
            "{} has no lines {} and {}",
            options.into.display(),
            MARKS[0].trim(),
            MARKS[1]
        );
    };
    ensure!(
        open < close,
        "{} ends the table before it begins",
        options.into.display()
    );
    let (before, after) = (&text[..open + MARKS[0].len()], &text[close..]);
    write(
        &options.into,
        format!("{before}{HEAD}{table}{after}").as_bytes(),
    )
}

fn is_beside(one: &Point, other: &Point) -> bool {
    (one.question, one.passage, one.every) == (other.question, other.passage, other.every)
}

/// The rows of one length of questions and passages: medians over all rounds, with the interval in which 95 of 100 of
/// them lie, and how many times as long as one pass with a kept passage each method takes.
fn rows(points: &[Point]) -> String {
    let total = |point: &Point| point.median(|round| round.total_ms);
    let kept = points
        .iter()
        .find(|point| point.method == Method::OnePassKept);
    let kept = kept.map_or(f64::NAN, total);
    let row = |point: &Point| {
        let (low, high) = point.interval(|round| round.total_ms);
        format!(
            "| {} | {} | {} | {} | {:.0} | {:.1} ({low:.1} to {high:.1}) | {:.1} | {:.2} |\n",
            point.question,
            point.passage,
            point.every,
            point.method.name(),
            point.median(|round| round.forwarded as f64),
            total(point),
            point.median(|round| round.ttft_ms),
            total(point) / kept,
        )
    };
    points.iter().map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::compare::Round;

    #[test]
    fn a_table_replaces_what_stands_between_its_marks_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [json, into] = ["a.json", "a.md"].map(|name| dir.path().join(name));
        let point = |method, total_ms| Point {
            method,
            question: 32,
            passage: 30,
            every: 1,
            rounds: vec![Round {
                total_ms,
                ttft_ms: 1.0,
                forwarded: 55,
            }],
        };
        let report = CompareReport {
            version: "0".into(),
            machine: Machine::this(),
            grid: Grid {
                questions: vec![32],
                passages: vec![30],
                every: vec![1],
                answer: 10,
                rounds: 1,
                repetitions: 1,
            },
            points: vec![
                point(Method::OnePassKept, 40.0),
                point(Method::LlamaCpp, 100.0),
            ],
        };
        fs::write(&json, serde_json::to_vec(&report).unwrap()).unwrap();
        fs::write(
            &into,
            format!("Before\n{}old\n{}\nafter\n", MARKS[0], MARKS[1]),
        )
        .unwrap();
        let options = TableOptions { json, into };
        table(&options).unwrap();
        let text = fs::read_to_string(&options.into).unwrap();
        assert!(text.starts_with("Before\n") && text.ends_with("<!-- /comparison -->\nafter\n"));
        assert!(
            text.contains(
                "| 32 | 30 | 1 | two passes, llama.cpp | 55 | 100.0 (100.0 to 100.0) | 1.0 | 2.50 |"
            ),
            "{text}"
        );
        assert!(!text.contains("old"));
        fs::write(&options.into, "nothing").unwrap();
        assert!(
            table(&options)
                .unwrap_err()
                .to_string()
                .contains("has no lines")
        );
    }
}
