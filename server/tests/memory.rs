//! What texts that are far too long may take of the memory. This is a program of its own, so that nothing else runs
//! while it measures.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "all/common/mod.rs"]
mod common;

use std::time::Instant;

use common::process::Process;
use common::{Client, Files, envelope, question};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Almost as long as a body may be, in words that the model's tokenizer cuts into many tokens.
fn endless() -> String {
    let word = |n: u64| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..200_000).map(word).collect()
}

async fn ask(client: &Client, path: &str, body: &Value) -> (StatusCode, Value) {
    let url = format!("{}{path}", client.url);
    let response = client.http.post(url).json(body).send().await.unwrap();
    let status = response.status();
    (status, envelope(response.json().await.unwrap()))
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_unread_on_every_route() {
    let files = Files::new();
    let server = Process::start(&files, &files.data_dir());
    let text = endless();
    let model = "onegen";
    server.client.complete(&question("Hello!")).await;
    let before = server.memory_mb("VmHWM");
    for (path, body) in [
        ("/v1/embeddings", json!({"model": model, "input": text})),
        ("/v1/chat/completions", question(&text)),
        ("/v1/completions", json!({"model": model, "prompt": text})),
        ("/v1/responses", json!({"model": model, "input": text})),
        ("/v1/vector_stores/default/search", json!({"query": text})),
    ] {
        let (status, error) = ask(&server.client, path, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("tokens"), "{path}: {message}");
    }
    let over = server.memory_mb("VmHWM") - before;
    println!("{over} MB over idle for texts of {} MB", text.len() >> 20);
    assert!(over < 100, "{over} MB over idle");
}

#[tokio::test]
async fn many_of_them_at_once_leave_the_memory_and_the_others_alone() {
    let files = Files::new();
    let server = Process::start(&files, &files.data_dir());
    let body = json!({"model": "onegen", "input": endless()});
    server.client.complete(&question("Hello!")).await;
    let before = server.memory_mb("VmHWM");
    let many = join_all((0..64).map(|_| ask(&server.client, "/v1/embeddings", &body)));
    let other = async {
        let since = Instant::now();
        server.client.get_json("/readyz").await;
        since.elapsed()
    };
    let (refused, other) = tokio::join!(many, other);
    assert!(
        refused
            .iter()
            .all(|(status, _)| *status == StatusCode::BAD_REQUEST)
    );
    let over = server.memory_mb("VmHWM") - before;
    println!("{over} MB over idle, a probe was answered after {other:?}");
    // The bodies alone are 64 times 3.4 MB, as they came and as text.
    assert!(over < 1_000, "{over} MB over idle");
}
