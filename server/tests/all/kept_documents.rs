//! What was put in or taken out through the API stays so, whatever becomes of the corpus.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

use crate::common::almanac::{Almanac, zembla};
use reqwest::StatusCode;
use serde_json::{Value, json};

const ZEMBLA: &str = "/v1/documents/country%2Fzembla";
const CHILE: &str = "/v1/documents/country-chile";

/// Adds a line to the corpus.
fn grow(corpus: &std::path::Path, id: &str) {
    let mut corpus = fs::File::options().append(true).open(corpus).unwrap();
    let line = json!({"id": id, "title": "Lima", "text": "Lima is a city."});
    writeln!(corpus, "{line}").unwrap();
}

async fn status(server: &Almanac, path: &str) -> StatusCode {
    server.ask("GET", path, Value::Null).await.0
}

/// One document is put in, one of the corpus is taken out.
async fn change(server: &Almanac) {
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    server.done("DELETE", CHILE, Value::Null).await;
}

async fn assert_changed(server: &Almanac, capital: &str) {
    let document = server.done("GET", ZEMBLA, Value::Null).await;
    assert!(
        document["text"].as_str().unwrap().contains(capital),
        "{document}"
    );
    let question = crate::common::question("What is the capital of Zembla?");
    let answer = server.complete(&question).await;
    assert!(
        crate::common::content(&answer).contains(capital),
        "{answer}"
    );
    assert_eq!(status(server, CHILE).await, StatusCode::NOT_FOUND);
    assert_eq!(
        status(server, "/v1/documents/country-peru").await,
        StatusCode::OK
    );
}

#[tokio::test]
async fn documents_of_the_api_outlive_a_corpus_that_grows() {
    let server = Almanac::start().await;
    change(&server).await;
    let corpus = server.files.path("countries.jsonl");
    let first = fs::read(&corpus).unwrap();
    // While it is served.
    grow(&corpus, "one");
    let reloaded = server.done("POST", "/v1/admin/reload", Value::Null).await;
    assert_eq!(reloaded["failed"], json!([]));
    assert_eq!(status(&server, "/v1/documents/one").await, StatusCode::OK);
    assert_changed(&server, "Onhava").await;
    // Over a restart.
    let grown = corpus.clone();
    let server = server.restart_after(move || grow(&grown, "two")).await;
    assert_eq!(status(&server, "/v1/documents/two").await, StatusCode::OK);
    assert_changed(&server, "Onhava").await;
    // A later change counts, also when the corpus is again what it was at first.
    server
        .done("PUT", "/v1/documents", zembla("Uranograd"))
        .await;
    let server = server
        .restart_after(move || fs::write(&corpus, first).unwrap())
        .await;
    assert_eq!(
        status(&server, "/v1/documents/two").await,
        StatusCode::NOT_FOUND
    );
    assert_changed(&server, "Uranograd").await;
}

#[tokio::test]
async fn changes_while_the_corpus_is_indexed_again_are_kept_too() {
    let server = Almanac::start().await;
    change(&server).await;
    let corpus = server.files.path("countries.jsonl");
    for round in 0..5 {
        grow(&corpus, &format!("city-{round}"));
        let capital = format!("City {round}");
        let body = json!({"id": "during", "title": "T", "text": capital});
        let (reloaded, _) = tokio::join!(
            server.done("POST", "/v1/admin/reload", Value::Null),
            server.done("PUT", "/v1/documents", body),
        );
        assert_eq!(reloaded["failed"], json!([]));
        let put = server
            .done("GET", "/v1/documents/during", Value::Null)
            .await;
        assert_eq!(put["text"], json!(capital));
    }
    assert_changed(&server, "Onhava").await;
}

#[tokio::test]
async fn an_index_of_another_version_is_not_replaced_if_it_holds_documents_of_the_api() {
    let server = Almanac::start().await;
    change(&server).await;
    let index = server.index_dir();
    let files = server.stop_serving().await;
    let config = files.config(&[]);
    let manifest = index.join("manifest.json");
    let written = fs::read_to_string(&manifest).unwrap();
    let version = written.find("\"format_version\":").unwrap();
    let digit = version + "\"format_version\": ".len();
    let mut other = written.clone();
    other.replace_range(digit..=digit, "9");
    fs::write(&manifest, &other).unwrap();
    let error = onegen_server::App::load(&config).err().unwrap();
    let error = format!("{error:#}");
    assert!(
        error.contains("2 documents") && error.contains("API"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&manifest).unwrap(), other);
    // Moved away on purpose, the corpus is served alone.
    fs::rename(&index, index.with_extension("old")).unwrap();
    onegen_server::App::load(&config).unwrap();
}
