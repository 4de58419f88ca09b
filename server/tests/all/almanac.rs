//! The shipped model over its almanac, asked over HTTP the way a newcomer would.
#![allow(clippy::unwrap_used)]

use std::ops::Deref;
use std::path::PathBuf;

use crate::common::almanac::models;
use crate::common::facts::{self, says};
use crate::common::{Server, content, conversation, count, question, with};
use clap::Parser;
use onegen_server::{App, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// A server and where it keeps its conversations.
struct Almanac {
    server: Server,
    _data_dir: TempDir,
}

impl Deref for Almanac {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Each test has a server of its own, and all share the index that the first of them builds.
async fn almanac() -> Almanac {
    static INDEX: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || async {
        let app = App::load(&config(&["--data-dir", env!("CARGO_TARGET_TMPDIR")])).unwrap();
        let store = app.collections().iter().next().unwrap().store();
        store.dir().unwrap().to_owned()
    };
    let index = INDEX.get_or_init(build).await;
    let data_dir = tempfile::tempdir().unwrap();
    let paths = [index, data_dir.path()].map(|path| path.to_str().unwrap());
    let config = config(&["--index", paths[0], "--data-dir", paths[1]]);
    Almanac {
        server: Server::start(&config).await,
        _data_dir: data_dir,
    }
}

fn config(more: &[&str]) -> Config {
    let model = models().join("almanac");
    let given = ["onegen-server", "--model", model.to_str().unwrap()];
    Config::try_parse_from(given.iter().chain(more)).unwrap()
}

/// Asks about every row of a table, and gives the share that is answered rightly from the right passage.
async fn share_right(table: &str, column: &str, ask: impl Fn(&str) -> String) -> f64 {
    let server = almanac().await;
    let (right, all) = facts::right_of(&server, table, column, ask).await;
    f64::from(right) / f64::from(all)
}

#[tokio::test]
async fn the_first_question_streams_lima_with_its_passage_and_receipt() {
    let server = almanac().await;
    let chunks = server
        .stream(&question("What is the capital of Peru?"))
        .await;
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(says(&text, "Lima"), "{text}");
    let receipts: Vec<&Value> = chunks
        .iter()
        .filter_map(|c| c["onegen"].get("retrieval"))
        .collect();
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["passages"][0]["title"], "Peru");
    assert_eq!(receipts[0]["query_tokens_reencoded"], 0);
    let mut annotations = chunks
        .iter()
        .filter_map(|c| c["choices"][0]["delta"].get("annotations"));
    let citation = &annotations.next().unwrap()[0]["url_citation"];
    assert_eq!(citation["title"], "Peru");
    assert_eq!(citation["url"], "onegen://passage/country-peru");
    assert_eq!(citation["start_index"], 0);
    assert_eq!(
        count(&citation["end_index"]),
        text.trim_end().chars().count()
    );
}

#[tokio::test]
async fn a_follow_up_finds_the_currency_by_id_and_by_transcript_without_reading_twice() {
    let server = almanac().await;
    let asked = "What is the capital of Peru?";
    for by_id in [true, false] {
        let first = server.complete(&question(asked)).await;
        let before: f64 = server.forwarded().await.iter().sum();
        let next = if by_id {
            with(
                question("And its currency?"),
                json!({"conversation": conversation(&first)}),
            )
        } else {
            json!({"model": "onegen", "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": content(&first)},
                {"role": "user", "content": "And its currency?"},
            ]})
        };
        let second = server.complete(&next).await;
        assert!(says(content(&second), "sol"), "{second}");
        assert_eq!(conversation(&second), conversation(&first));
        let usage = &second["usage"];
        let details = &usage["prompt_tokens_details"];
        let first_total = count(&first["usage"]["total_tokens"]);
        assert_eq!(count(&details["cached_tokens"]), first_total - 1);
        // Only new and written tokens were forwarded; of the first turn only its last token, and of a passage that is
        // kept since then only its end.
        let after: f64 = server.forwarded().await.iter().sum();
        let new = count(&usage["total_tokens"]) - 1 - count(&details["cached_tokens"]);
        let retrievals = second["onegen"]["retrievals"].as_array().unwrap();
        let spliced = |field: &str| {
            retrievals
                .iter()
                .map(|one| count(&one[field]))
                .sum::<usize>()
        };
        let expected = new - (spliced("splice_tokens") - spliced("splice_forwarded"));
        assert_eq!(after - before, expected as f64);
    }
}

#[tokio::test]
async fn an_answer_in_json_holds_what_the_passage_says() {
    let server = almanac().await;
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["answer"],
        "properties": {"answer": {"type": "string", "maxLength": 24}},
    });
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "capital", "schema": schema}});
    let asked = question("What is the capital of Peru?");
    let answer = server
        .complete(&with(asked.clone(), json!({"response_format": format})))
        .await;
    let value: Value = serde_json::from_str(content(&answer)).unwrap();
    assert!(value["answer"].is_string(), "{value}");
    let citation = &answer["choices"][0]["message"]["annotations"][0]["url_citation"];
    assert_eq!(citation["title"], "Peru");

    let choice = json!({"structured_outputs": {"choice": ["Bogota", "Lima", "Quito"]}});
    let answer = server.complete(&with(asked, choice)).await;
    assert_eq!(content(&answer), "Lima");
}

#[tokio::test]
async fn a_greeting_retrieves_nothing() {
    let server = almanac().await;
    let answer = server.complete(&question("Hello!")).await;
    assert_eq!(answer["onegen"]["retrievals"], json!([]));
    assert!(!content(&answer).is_empty());
}

#[tokio::test]
async fn nine_of_ten_capitals_are_right_and_cited() {
    let right = share_right("countries", "capital", |name| {
        format!("What is the capital of {name}?")
    });
    assert!(right.await >= 0.9);
}

#[tokio::test]
async fn nine_of_ten_currencies_are_right_and_cited() {
    let right = share_right("countries", "currency", |name| {
        format!("What is the currency of {name}?")
    });
    assert!(right.await >= 0.9);
}

#[tokio::test]
async fn nine_of_ten_languages_are_right_and_cited() {
    let right = share_right("countries", "language", |name| {
        format!("What is the official language of {name}?")
    });
    assert!(right.await >= 0.9);
}

#[tokio::test]
async fn nine_of_ten_symbols_of_elements_are_right_and_cited() {
    let right = share_right("elements", "symbol", |name| {
        format!("What is the symbol of {name}?")
    });
    assert!(right.await >= 0.9);
}
