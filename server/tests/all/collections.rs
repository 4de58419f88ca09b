//! The shipped model over two contradicting collections: the retrieval options of a request are
//! applied.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::{Server, almanac, content, conversation, count, question, with};
use clap::Parser;
use onegen_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

const PERU: &str = "What is the capital of Peru?";

/// Two corpora: some countries of the almanac, and an elsewhere in which Cusco is Peru's capital.
struct Corpora {
    dir: TempDir,
}

impl Corpora {
    fn write() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let countries = countries(&["Peru", "Chile", "Japan", "Kenya", "Norway"]);
        fs::write(dir.path().join("world.jsonl"), countries).unwrap();
        let elsewhere = country("Peru").replace("Lima", "Cusco");
        fs::write(dir.path().join("elsewhere.jsonl"), elsewhere).unwrap();
        Self { dir }
    }

    async fn serve(&self) -> Server {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let config = Config::try_parse_from([
            "onegen-server",
            "--model",
            almanac::models().join("almanac").to_str().unwrap(),
            "--data-dir",
            &path("data"),
            "--corpus",
            &format!("world={}", path("world.jsonl")),
            "--corpus",
            &format!("elsewhere={}", path("elsewhere.jsonl")),
        ]);
        Server::start(&config.unwrap()).await
    }
}

/// Passages of the almanac on these countries, with the country's name as metadata.
fn countries(names: &[&str]) -> String {
    names.iter().copied().map(country).collect()
}

fn country(name: &str) -> String {
    let mut passage = almanac::country(name);
    passage["metadata"]["name"] = name.into();
    format!("{passage}\n")
}

fn request(text: &str, retrieval: Value) -> Value {
    with(question(text), json!({"retrieval": retrieval}))
}

fn receipts(answer: &Value) -> &Vec<Value> {
    answer["onegen"]["retrievals"].as_array().unwrap()
}

/// Titles of what the only retrieval found.
fn found(answer: &Value) -> Vec<&str> {
    assert_eq!(receipts(answer).len(), 1, "{answer}");
    let passages = receipts(answer)[0]["passages"].as_array().unwrap();
    let titles = passages.iter().map(|p| p["title"].as_str().unwrap());
    titles.collect()
}

#[tokio::test]
async fn a_filter_leaves_what_its_metadata_says_and_nothing_else_is_found() {
    let corpora = Corpora::write();
    let server = corpora.serve().await;
    let all = server.complete(&request(PERU, json!({"k": 5}))).await;
    assert_eq!(found(&all).len(), 5);
    assert_eq!(found(&all)[0], "Peru");
    let chile = json!({"type": "eq", "key": "name", "value": "Chile"});
    let one = server
        .complete(&request(PERU, json!({"k": 5, "filter": chile})))
        .await;
    assert_eq!(found(&one), ["Chile"]);
    assert!(content(&one).contains("Santiago"), "{one}");
    let citation = &one["choices"][0]["message"]["annotations"][0]["url_citation"];
    assert_eq!(citation["title"], "Chile");
}

#[tokio::test]
async fn where_nothing_is_found_the_model_goes_on_without_a_passage() {
    let corpora = Corpora::write();
    let server = corpora.serve().await;
    let nobody = json!({"type": "eq", "key": "name", "value": "Atlantis"});
    for retrieval in [json!({"min_score": 0.99}), json!({"filter": nobody})] {
        let answer = server.complete(&request(PERU, retrieval)).await;
        assert_eq!(receipts(&answer).len(), 0);
        assert_eq!(answer["choices"][0]["message"]["annotations"], json!([]));
        assert!(!content(&answer).is_empty());
        assert!(!content(&answer).contains("[RQ]"));
    }
    let [_, _, searched, spliced] = server.forwarded().await;
    assert!(searched >= 2.0, "{searched}");
    assert_eq!(spliced, 0.0);
    // The bound itself passes.
    let answer = server.complete(&question(PERU)).await;
    let score = &receipts(&answer)[0]["passages"][0]["score"];
    let again = server
        .complete(&request(PERU, json!({"min_score": score})))
        .await;
    assert_eq!(found(&again), ["Peru"]);
}

#[tokio::test]
async fn each_request_is_answered_from_its_own_collection() {
    let corpora = Corpora::write();
    let server = corpora.serve().await;
    let from = |collection: &str| request(PERU, json!({"collection": collection}));
    let (world, elsewhere) = (from("world"), from("elsewhere"));
    // At once, so that they share batches.
    let requests = (0..8).map(|i| [&world, &elsewhere][i % 2]);
    let answers = requests.map(|request| server.complete(request));
    let answers = futures::future::join_all(answers).await;
    for (i, answer) in answers.iter().enumerate() {
        let (name, capital) = [("world", "Lima"), ("elsewhere", "Cusco")][i % 2];
        assert_eq!(receipts(answer)[0]["collection"], name);
        assert!(content(answer).contains(capital), "{answer}");
    }
    // The first named collection is the default one, for streamed and for whole answers.
    let chunks = server.stream(&question(PERU)).await;
    let mut streamed = chunks.iter().filter_map(|c| c["onegen"].get("retrieval"));
    assert_eq!(streamed.next().unwrap()["collection"], "world");
    let ready = server.get_json("/readyz").await;
    let collections =
        json!([{"name": "world", "passages": 5}, {"name": "elsewhere", "passages": 1}]);
    assert_eq!(ready["collections"], collections);
    assert_eq!(ready["passages"], 6);

    let (status, error) = server.refused(&from("nowhere")).await;
    assert_eq!(status, 404);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("\"world\", \"elsewhere\""), "{message}");
}

#[tokio::test]
async fn a_conversation_that_goes_on_with_another_collection_retrieves_from_that_one() {
    let corpora = Corpora::write();
    let server = corpora.serve().await;
    let first = server.complete(&question(PERU)).await;
    assert_eq!(receipts(&first)[0]["collection"], "world");
    let next = with(
        request(PERU, json!({"collection": "elsewhere"})),
        json!({"conversation": conversation(&first)}),
    );
    let second = server.complete(&next).await;
    assert_eq!(conversation(&second), conversation(&first));
    assert_eq!(receipts(&second)[0]["collection"], "elsewhere");
    assert!(content(&second).contains("Cusco"), "{second}");
    let details = &second["usage"]["prompt_tokens_details"];
    let first_total = count(&first["usage"]["total_tokens"]);
    assert_eq!(count(&details["cached_tokens"]), first_total - 1);
    // The collection was only that turn's.
    let third = with(
        question(PERU),
        json!({"conversation": conversation(&first)}),
    );
    let third = server.complete(&third).await;
    assert_eq!(receipts(&third)[0]["collection"], "world");
}

#[tokio::test]
async fn a_greeting_retrieves_exactly_once_when_it_is_forced() {
    let corpora = Corpora::write();
    let server = corpora.serve().await;
    let greeting = server.complete(&question("Hello!")).await;
    assert_eq!(receipts(&greeting).len(), 0);
    let forced = server
        .complete(&request("Hello!", json!({"forced": true})))
        .await;
    assert_eq!(found(&forced).len(), 1);
    assert_eq!(receipts(&forced)[0]["at_token"], 0);
    assert!(!content(&forced).is_empty());
}
