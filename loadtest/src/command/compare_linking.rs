//! `onegen-loadtest compare-linking`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::compare::client;
use super::run::write_json;
use crate::compare::{LinkingMethod, LinkingPoint, compare_linking as measure};
use crate::plan::dataset::Dataset;
use crate::report::Machine;

/// Entity linking in one pass against two, by the number of mentions.
#[derive(Args)]
pub(super) struct CompareLinkingOptions {
    /// A OneGen server with a linking model and its entities
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Url,

    /// Short texts with mentions, as for `run --dataset`; they are joined to longer ones
    #[arg(long, value_name = "FILE")]
    dataset: PathBuf,

    /// Mentions of a text
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16")]
    mentions: Vec<usize>,

    /// Texts of each number of mentions
    #[arg(long, default_value = "10")]
    repetitions: usize,

    /// Allow another machine than this one
    #[arg(long)]
    remote: bool,

    /// Where all texts' costs go
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A comparison of linking, as it is written to a file.
#[derive(Serialize, Deserialize)]
pub(super) struct LinkingReport {
    version: String,
    machine: Machine,
    linking: Vec<LinkingPoint>,
}

const HEAD: &str =
    "| mentions | method | positions | ms | times one pass |\n|---|---|---|---|---|\n";

/// Measures both methods and prints a table.
pub(super) async fn compare_linking(options: CompareLinkingOptions) -> Result<()> {
    let mut all = options.mentions.iter().chain([&options.repetitions]);
    ensure!(
        all.all(|one| *one > 0),
        "--mentions and --repetitions begin at 1"
    );
    let dataset = Dataset::read(&options.dataset)?;
    let server = client(options.url, options.remote).await?;
    print!("{HEAD}");
    let see = |points: &[LinkingPoint]| print!("{}", rows(points));
    let (mentions, repetitions) = (&options.mentions, options.repetitions);
    let linking = measure(&server, &dataset, mentions, repetitions, see).await;
    let linking = linking.map_err(anyhow::Error::msg)?;
    let report = LinkingReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::this(),
        linking,
    };
    write_json(options.json.as_deref(), &report)
}

impl LinkingReport {
    /// The table, with its head.
    pub(super) fn table(&self) -> String {
        let beside = |one: &LinkingPoint, other: &LinkingPoint| one.mentions == other.mentions;
        let rows = self.linking.chunk_by(beside).map(rows);
        format!("{HEAD}{}", rows.collect::<String>())
    }
}

/// The rows of one number of mentions: medians over all texts, with the interval in which 95 of 100 of them lie.
fn rows(points: &[LinkingPoint]) -> String {
    let total = |point: &LinkingPoint| point.rounds.total_ms();
    let one_pass = points
        .iter()
        .find(|point| point.method == LinkingMethod::OnePass);
    let one_pass = one_pass.map_or(f64::NAN, total);
    let row = |point: &LinkingPoint| {
        format!(
            "| {} | {} | {:.0} | {} | {:.2} |\n",
            point.mentions,
            point.method.name(),
            point.rounds.median(|round| round.forwarded as f64),
            point.rounds.total_and_interval(),
            total(point) / one_pass,
        )
    };
    points.iter().map(row).collect()
}
