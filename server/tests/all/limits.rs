//! Limits of one client, and the errors when it exceeds them.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crate::common::{Files, Server, chunks, content, envelope, question, with};
use futures::future::join_all;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

fn short(files: &Files) -> Value {
    with(question("Hello!"), files.without_retrieval(4))
}

/// As long as the context allows.
fn long(files: &Files) -> Value {
    with(
        question("Hello!"),
        json!({"logit_bias": files.bias(false), "max_tokens": 3900, "stream": true}),
    )
}

async fn refusal(response: Response) -> (StatusCode, u64, Value) {
    let status = response.status();
    let wait = response.headers()["retry-after"].to_str().unwrap();
    let wait = wait.parse().unwrap();
    (status, wait, envelope(response.json().await.unwrap()))
}

#[tokio::test]
async fn who_asks_too_often_is_told_how_long_to_wait() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--requests-per-minute", "60"])).await;
    let body = short(&files);
    let since = Instant::now();
    let mut admitted = 0;
    let refused = loop {
        let response = server.send(&body).await;
        match response.status() {
            StatusCode::OK => admitted += 1,
            _ => break response,
        }
    };
    // One minute's requests at once, and one more each second.
    assert!((60..=60 + since.elapsed().as_secs() + 1).contains(&admitted));
    let (status, wait, error) = refusal(refused).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(wait, 1);
    assert_eq!(error["type"], "rate_limit_error");
    assert_eq!(error["code"], "rate_limit_exceeded");
    // Probes and what serves monitoring are not counted.
    server.get_json("/readyz").await;
    server.metric("onegen_conversations").await;
    tokio::time::sleep(Duration::from_secs(wait)).await;
    server.complete(&body).await;
}

#[tokio::test]
async fn each_key_has_its_own_share() {
    let files = Files::new();
    let (keys, made) = files.write_keys(["alice", "bob"]);
    let arguments = [
        "--api-keys",
        keys.to_str().unwrap(),
        "--requests-per-minute",
        "1",
    ];
    let server = Server::start(&files.config(&arguments)).await;
    let [alice, bob] = [0, 1].map(|at: usize| server.with_key(&made[at]));
    alice.complete(&short(&files)).await;
    let (status, wait, _) = refusal(alice.send(&short(&files)).await).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert!((55..=60).contains(&wait), "{wait}");
    bob.complete(&short(&files)).await;
}

#[tokio::test]
async fn a_client_has_no_more_under_way_than_it_may_and_a_lost_stream_counts_no_more() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-concurrent", "2"])).await;
    let first = server.send(&long(&files)).await;
    let second = server.send(&long(&files)).await;
    let (status, wait, error) = refusal(server.send(&short(&files)).await).await;
    assert_eq!((status, wait), (StatusCode::TOO_MANY_REQUESTS, 1));
    assert_eq!(error["code"], "too_many_at_once");
    drop(first);
    let since = Instant::now();
    while server.send(&short(&files)).await.status() != StatusCode::OK {
        assert!(since.elapsed() < Duration::from_secs(10), "still counted");
    }
    // Reading the stream to its end also frees its place.
    assert!(!chunks(&second.text().await.unwrap()).is_empty());
    let third = server.send(&long(&files)).await;
    assert_eq!(third.status(), StatusCode::OK);
}

#[tokio::test]
async fn beyond_those_that_may_wait_all_are_refused_whoever_they_are() {
    let files = Files::new();
    let arguments = ["--max-running", "1", "--max-waiting", "1"];
    let server = Server::start(&files.config(&arguments)).await;
    let body = long(&files);
    let responses = join_all((0..8).map(|_| server.send(&body))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = responses
        .into_iter()
        .partition(|r| r.status() == StatusCode::OK);
    assert!(accepted.len() >= 2 && !refused.is_empty());
    for response in refused {
        let (status, wait, error) = refusal(response).await;
        assert_eq!((status, wait), (StatusCode::TOO_MANY_REQUESTS, 1));
        assert_eq!(error["code"], "overloaded");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_one_below_it_is_not() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-body-kb", "2"])).await;
    server.complete(&short(&files)).await;
    let (status, error) = server.refused(&question(&"x".repeat(3000))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(error["message"].as_str().unwrap().contains("2048"));
}

#[tokio::test]
async fn an_answer_has_at_most_as_many_tokens_as_the_server_gives() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-tokens", "5"])).await;
    let endless = json!({"logit_bias": files.bias(false), "max_tokens": null});
    let answer = server.complete(&with(question("Hello!"), endless)).await;
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let (status, error) = server
        .refused(&with(question("Hello!"), json!({"max_tokens": 6})))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["param"], "max_tokens");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_ended_and_leaves_no_trace() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--request-timeout", "0.05"])).await;
    let whole = with(long(&files), json!({"stream": false}));
    let (status, error) = server.refused(&whole).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(error["code"], "request_timeout");
    // After the headers the error is an event, and the stream ends as usual.
    let events = server.stream(&long(&files)).await;
    assert_eq!(events.last().unwrap()["error"]["code"], "request_timeout");
    server.idle().await;
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
    let failed = "onegen_request_success_total{finished_reason=\"error\"}";
    assert_eq!(server.metric(failed).await, 2.0);
    assert!(!content(&server.complete(&short(&files)).await).is_empty());
}
