//! Passages whose keys and values are kept for later answers, and deleted with their documents.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Files, Server, question, with};
use onegen_engine::{LoadOptions, Model};
use onegen_index::{
    BuildOptions, Corpus, DocumentRules, Fingerprints, IngestOptions, build_from_corpus,
};
use serde_json::{Value, json};

/// A retrieval of the only document with this metadata.
fn reads(tenant: &str) -> Value {
    let filter = json!({"type": "eq", "key": "tenant", "value": tenant});
    let retrieval = json!({"forced": true, "filter": filter, "max_retrievals": 1});
    let fields = json!({"retrieval": retrieval, "max_tokens": 4});
    with(question("What is the capital of Zembla?"), fields)
}

fn document(id: &str, tenant: &str) -> Value {
    let text = "Zembla is a country in Europe. Its capital is Onhava.";
    json!({"id": id, "title": "Zembla", "text": text, "metadata": {"tenant": tenant}})
}

async fn source(server: &Server, tenant: &str) -> (Value, Value) {
    let answer = server.complete(&reads(tenant)).await;
    let receipt = &answer["onegen"]["retrievals"][0];
    assert_eq!(receipt["passages"].as_array().unwrap().len(), 1, "{answer}");
    (
        receipt["passage_kv"].clone(),
        receipt["splice_forwarded"].clone(),
    )
}

#[tokio::test]
async fn what_an_index_keeps_with_its_passages_is_read_from_the_first_answer_on() {
    let files = Files::with_block_attention();
    let corpus = files.data_dir().join("corpus.jsonl");
    fs::create_dir_all(files.data_dir()).unwrap();
    fs::write(&corpus, document("zembla", "a").to_string()).unwrap();
    let model = Model::load(files.model(), &LoadOptions::default()).unwrap();
    let dir = files.data_dir().join("kept");
    let build = BuildOptions {
        passage_kv: Some(model.kv_fingerprint()),
        ..BuildOptions::new(model.hidden_size(), Fingerprints::from(&model))
    };
    let options = IngestOptions {
        keep_kv: true,
        ..IngestOptions::new(DocumentRules::default())
    };
    let corpus = Corpus::open(&corpus).unwrap();
    build_from_corpus(corpus, &dir, build, options, &model, |_| ()).unwrap();

    let index = ["--index", dir.to_str().unwrap()];
    let server = Server::start(&files.config(&index)).await;
    assert_eq!(source(&server, "a").await, (json!("disk"), json!(1)));
    assert_eq!(source(&server, "a").await, (json!("memory"), json!(1)));
    // A document that is put in again is computed once more.
    server
        .done(
            "PUT",
            "/v1/documents",
            json!({"id": "zembla", "title": "Zembla", "text": "New.", "metadata": {"tenant": "a"}}),
        )
        .await;
    assert_eq!(source(&server, "a").await.0, "computed");
    // Keys and values of another type are not used.
    let files = Files::with_block_attention();
    let other = [&index[..], &["--kv-type", "f16"]].concat();
    let mut first = server;
    first.stop();
    first.stopped().await;
    let server = Server::start(&files.config(&other)).await;
    assert_eq!(source(&server, "a").await.0, "computed");
}

/// The kept passages below a data directory.
fn kept(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(kept(&path));
        } else if path.extension().is_some_and(|one| one == "block") {
            found.push(path);
        }
    }
    found
}

/// Waits until so many passages are kept on the disk, which happens behind the answer.
async fn wait_for(files: &Files, passages: usize) {
    let since = Instant::now();
    while kept(&files.data_dir()).len() != passages {
        assert!(since.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_passage_is_forwarded_once_for_all_answers_and_servers() {
    let files = Files::with_block_attention();
    let mut server = files.serve().await;
    server
        .done("PUT", "/v1/documents", document("zembla", "a"))
        .await;
    let (first, all) = source(&server, "a").await;
    assert_eq!(first, "computed");
    assert!(all.as_u64() > Some(1));
    assert_eq!(source(&server, "a").await, (json!("memory"), json!(1)));
    for (name, value) in [("hits", 1.0), ("misses", 1.0), ("evictions", 0.0)] {
        let name = format!("onegen_passage_cache_{name}_total");
        assert_eq!(server.metric(&name).await, value, "{name}");
    }
    assert!(server.metric("onegen_passage_cache_bytes").await > 0.0);
    wait_for(&files, 1).await;
    server.stop();
    server.stopped().await;
    let server = files.serve().await;
    assert_eq!(source(&server, "a").await, (json!("disk"), json!(1)));
    assert_eq!(source(&server, "a").await, (json!("memory"), json!(1)));
}

#[tokio::test]
async fn a_passage_that_is_deleted_or_changed_is_kept_nowhere() {
    let files = Files::with_block_attention();
    let server = files.serve().await;
    // Two documents of the same text share what is kept.
    for (id, tenant) in [("zembla", "a"), ("zembla-2", "b")] {
        server
            .done("PUT", "/v1/documents", document(id, tenant))
            .await;
    }
    source(&server, "a").await;
    assert_eq!(source(&server, "b").await.0, "memory");
    wait_for(&files, 1).await;
    server
        .done("DELETE", "/v1/documents/zembla", Value::Null)
        .await;
    assert_eq!(kept(&files.data_dir()), [] as [PathBuf; 0]);
    assert_eq!(source(&server, "b").await.0, "computed");
    assert_eq!(source(&server, "b").await.0, "memory");
    wait_for(&files, 1).await;
    // One that is put in again unchanged stays, and one with another text goes.
    server
        .done("PUT", "/v1/documents", document("zembla-2", "b"))
        .await;
    assert_eq!(source(&server, "b").await.0, "memory");
    let moved = with(
        document("zembla-2", "b"),
        json!({"text": "Zembla is no country."}),
    );
    server.done("PUT", "/v1/documents", moved).await;
    assert_eq!(kept(&files.data_dir()), [] as [PathBuf; 0]);
    assert_eq!(server.metric("onegen_passage_cache_bytes").await, 0.0);
}

#[tokio::test]
async fn what_was_deleted_while_no_server_ran_is_deleted_at_the_start() {
    let files = Files::with_block_attention();
    let mut server = files.serve().await;
    let retrieval = json!({"retrieval": {"forced": true}, "max_tokens": 4});
    server
        .complete(&with(question("What is the capital of Peru?"), retrieval))
        .await;
    wait_for(&files, 1).await;
    server.stop();
    server.stopped().await;
    fs::write(
        files.corpus(),
        "{\"id\": \"a\", \"text\": \"Another text.\"}\n",
    )
    .unwrap();
    let _server = files.serve().await;
    assert_eq!(kept(&files.data_dir()), [] as [PathBuf; 0]);
}
