//! models/smol over the almanac, asked over HTTP. It needs its base, which `ONEGEN_BASE` names. Without it these
//! tests print that they are skipped, and pass.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use crate::common::facts::{self, says};
use crate::common::{Server, content, conversation, question, with};
use clap::Parser;
use onegen_server::Config;
use serde_json::json;
use tempfile::TempDir;

/// A server with smol, and its files.
struct Smol {
    server: Server,
    _data_dir: TempDir,
}

impl Smol {
    /// A server over some lines of the almanac; none where there is no base.
    async fn start(holds: impl Fn(&str) -> bool) -> Option<Self> {
        let Ok(base) = std::env::var("ONEGEN_BASE") else {
            println!("skipped: ONEGEN_BASE names no base for models/smol");
            return None;
        };
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let almanac = std::fs::read_to_string(models.join("almanac/almanac.jsonl")).unwrap();
        let lines: Vec<&str> = almanac.lines().filter(|line| holds(line)).collect();
        let data_dir = tempfile::tempdir().unwrap();
        let corpus = data_dir.path().join("corpus.jsonl");
        std::fs::write(&corpus, lines.join("\n")).unwrap();
        let path = |path: &Path| path.display().to_string();
        let config = Config::try_parse_from([
            "onegen-server",
            "--model",
            &path(&models.join("smol")),
            "--base",
            &base,
            "--corpus",
            &path(&corpus),
            "--data-dir",
            &path(&data_dir.path().join("data")),
        ])
        .unwrap();
        Some(Self {
            server: Server::start(&config).await,
            _data_dir: data_dir,
        })
    }
}

#[tokio::test]
async fn three_of_four_capitals_are_right_and_cited() {
    let Some(smol) = Smol::start(|line| line.contains("\"kind\":\"country\"")).await else {
        return;
    };
    let (right, all) = facts::right_of(&smol.server, "countries", "capital", |name| {
        format!("What is the capital of {name}?")
    })
    .await;
    assert!(right * 4 >= all * 3, "{right} of {all}");
}

#[tokio::test]
async fn a_follow_up_needs_no_rewriting_and_small_talk_no_passage() {
    let Some(smol) = Smol::start(|line| {
        ["Peru", "Chile", "Japan"]
            .iter()
            .any(|name| line.contains(&format!("\"title\":\"{name}\"")))
    })
    .await
    else {
        return;
    };
    let first = smol
        .server
        .complete(&question("What is the capital of Peru?"))
        .await;
    assert!(says(content(&first), "Lima"), "{first}");
    let asked = with(
        question("And what is its currency?"),
        json!({"conversation": conversation(&first)}),
    );
    let second = smol.server.complete(&asked).await;
    assert!(says(content(&second), "sol"), "{second}");
    let thanks = smol
        .server
        .complete(&question("Thank you very much!"))
        .await;
    assert_eq!(thanks["onegen"]["retrievals"], json!([]), "{thanks}");
}
