//! Streams that wait, that are read slowly, or that are lost and resumed.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crate::common::{Client, Files, Server, chunks, envelope, question, with};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

fn body(files: &Files, tokens: usize, fields: Value) -> Value {
    let answer = json!({"logit_bias": files.bias(false), "max_tokens": tokens, "stream": true});
    with(with(question("Hello!"), answer), fields)
}

fn resumable(files: &Files, tokens: usize) -> Value {
    body(files, tokens, json!({"resumable": true}))
}

fn conversation(response: &Response) -> String {
    let header = &response.headers()["onegen-conversation"];
    header.to_str().unwrap().to_owned()
}

/// The events of a stream with their ids.
fn numbered(stream: &str) -> Vec<(usize, String)> {
    let events = stream
        .split("\n\n")
        .filter(|event| event.contains("data: "));
    events
        .map(|event| {
            let field = |name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
            };
            let id = field("id: ").unwrap().parse().unwrap();
            (id, field("data: ").unwrap())
        })
        .collect()
}

async fn resume(server: &Client, conversation: &str, from: &str) -> Response {
    server
        .get(&format!("/v1/stream?conv_id={conversation}{from}"))
        .await
}

#[tokio::test]
async fn a_stream_that_waits_sends_comments() {
    let files = Files::new();
    let arguments = ["--heartbeat", "0.02", "--max-running", "1"];
    let server = Server::start(&files.config(&arguments)).await;
    let first = server.send(&body(&files, 3900, json!({}))).await;
    let waiting = server.send(&body(&files, 4, json!({}))).await;
    for (name, value) in [("cache-control", "no-cache"), ("x-accel-buffering", "no")] {
        assert_eq!(waiting.headers()[name], value);
    }
    let text = waiting.text().await.unwrap();
    // A comment ends no event.
    assert!(text.contains(": keep-alive\n"), "{text}");
    assert!(!text.contains(": keep-alive\n\n"), "{text}");
    assert!(!chunks(&text).is_empty());
    drop(first);

    let quiet = Server::start(&Files::new().config(&["--heartbeat", "0"])).await;
    let text = quiet.send(&body(&files, 4, json!({}))).await;
    let text = text.text().await.unwrap();
    assert!(!text.lines().any(|line| line.starts_with(':')), "{text}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody_and_loses_nothing() {
    let files = Files::new();
    let server = files.serve().await;
    // Some kilobyte a token.
    let body = body(&files, 3500, json!({"logprobs": true, "top_logprobs": 20})).to_string();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut slow = socket.connect(address.parse().unwrap()).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let running = "onegen_num_requests_running";
    while server.metric(running).await < 1.0 {}

    // Others are answered meanwhile, and the turn comes to its end.
    let others = files.without_retrieval(8);
    server.complete(&with(question("Hello!"), others)).await;
    server.idle().await;
    // The client has not received the end yet, because the system buffers less than the rest of the
    // stream.
    let finished = "onegen_request_success_total{finished_reason=\"length\"}";
    assert_eq!(server.metric(finished).await, 1.0);
    // Only now does it read.
    let mut text = String::new();
    slow.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("\"finish_reason\":\"length\""));
    assert!(text.contains("data: [DONE]"));
}

#[tokio::test]
async fn a_resumable_turn_goes_on_without_its_client_and_is_read_again_from_any_event() {
    let files = Files::new();
    let server = files.serve().await;
    let mut lost = server.send(&resumable(&files, 2000)).await;
    let id = conversation(&lost);
    lost.chunk().await.unwrap().unwrap();
    drop(lost);
    // While it runs, and once more when it is over.
    let running = resume(&server, &id, "").await;
    assert_eq!(running.status(), StatusCode::OK);
    assert_eq!(running.headers()["content-type"], "text/event-stream");
    let all = numbered(&running.text().await.unwrap());
    assert!(all.len() > 100);
    assert!(all.iter().enumerate().all(|(at, (id, _))| at == *id));
    assert_eq!(all.last().unwrap().1, "[DONE]");
    let finish: Value = serde_json::from_str(&all[all.len() - 2].1).unwrap();
    assert_eq!(finish["onegen"]["conversation"], id);
    server.idle().await;
    let rest = resume(&server, &id, "&from=7").await.text().await.unwrap();
    assert_eq!(numbered(&rest), all[7..]);
    // This is what browsers do.
    let url = format!("{}/v1/stream?conv_id={id}", server.url);
    let again = server
        .http
        .get(url)
        .header("last-event-id", "6")
        .send()
        .await;
    assert_eq!(again.unwrap().text().await.unwrap(), rest);
    let beyond = resume(&server, &id, "&from=999999").await;
    assert_eq!(beyond.text().await.unwrap(), "");

    // Its turn is part of the conversation.
    let next = json!({"conversation": id, "stream": false, "resumable": null, "max_tokens": 4});
    server.complete(&with(resumable(&files, 4), next)).await;
}

#[tokio::test]
async fn a_resumable_request_that_comes_twice_is_answered_once() {
    let files = Files::new();
    let server = files.serve().await;
    let send = async |key: &str, body: &Value| {
        let url = format!("{}/v1/chat/completions", server.url);
        let request = server.http.post(url).header("idempotency-key", key);
        request.json(body).send().await.unwrap()
    };
    let body = resumable(&files, 200);
    let first = send("one", &body).await;
    // While the first is answered, and when it is over.
    let second = send("one", &body).await;
    let id = conversation(&first);
    assert_eq!(conversation(&second), id);
    let all = first.text().await.unwrap();
    assert_eq!(second.text().await.unwrap(), all);
    assert_eq!(send("one", &body).await.text().await.unwrap(), all);
    server.idle().await;
    let finished = "onegen_request_success_total{finished_reason=\"length\"}";
    assert_eq!(server.metric(finished).await, 1.0);
    // A request with another key is another request, and without recording each request begins a
    // turn.
    assert_ne!(conversation(&send("two", &body).await), id);
    let plain = send("one", &self::body(&files, 4, json!({}))).await;
    assert!(!plain.headers().contains_key("onegen-conversation"));
    assert!(!chunks(&plain.text().await.unwrap()).is_empty());
}

#[tokio::test]
async fn requests_with_one_key_that_come_at_once_begin_one_turn() {
    let files = Files::new();
    let server = files.serve().await;
    let body = resumable(&files, 8);
    let url = format!("{}/v1/chat/completions", server.url);
    let at_once = (0..8).map(|_| {
        let request = server.http.post(&url).header("idempotency-key", "one");
        request.json(&body).send()
    });
    let responses = futures::future::try_join_all(at_once).await.unwrap();
    let id = conversation(&responses[0]);
    for response in responses {
        assert_eq!(conversation(&response), id);
        assert!(response.text().await.unwrap().contains("[DONE]"));
    }
    server.idle().await;
    let finished = "onegen_request_success_total{finished_reason=\"length\"}";
    assert_eq!(server.metric(finished).await, 1.0);
}

#[tokio::test]
async fn a_turn_that_goes_on_without_its_client_is_still_the_clients() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-concurrent", "1"])).await;
    let response = server.send(&resumable(&files, 3900)).await;
    let id = conversation(&response);
    drop(response);
    // Its connection is closed by then.
    tokio::time::sleep(Duration::from_millis(30)).await;
    if server.metric("onegen_num_requests_running").await < 1.0 {
        println!("skipped: the turn was over before anybody could look");
        return;
    }
    let (status, error) = server.refused(&question("Hello!")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(error["code"], "too_many_at_once");
    // It may be read all the same.
    let again = resume(&server, &id, "").await;
    assert!(again.text().await.unwrap().contains("[DONE]"));
}

#[tokio::test]
async fn the_first_reader_gets_what_later_ones_get() {
    let files = Files::new();
    let server = files.serve().await;
    let first = server.send(&resumable(&files, 50)).await;
    let id = conversation(&first);
    let first = first.text().await.unwrap();
    assert_eq!(resume(&server, &id, "").await.text().await.unwrap(), first);
    chunks(&first);
}

#[tokio::test]
async fn a_turn_that_is_not_resumable_ends_with_its_client() {
    let files = Files::new();
    let server = files.serve().await;
    let mut response = server.send(&body(&files, 3900, json!({}))).await;
    assert!(!response.headers().contains_key("onegen-conversation"));
    response.chunk().await.unwrap().unwrap();
    drop(response);
    server.idle().await;
    let aborted = "onegen_request_success_total{finished_reason=\"abort\"}";
    assert_eq!(server.metric(aborted).await, 1.0);
}

#[tokio::test]
async fn a_resumable_turn_is_stopped_on_demand_and_leaves_no_trace() {
    let files = Files::new();
    let server = files.serve().await;
    let response = server.send(&resumable(&files, 3900)).await;
    let url = format!(
        "{}/v1/stream?conv_id={}",
        server.url,
        conversation(&response)
    );
    let stopped = server.http.delete(&url).send().await.unwrap();
    assert_eq!(stopped.status(), StatusCode::NO_CONTENT);
    // Its readers end, too.
    assert!(!response.text().await.unwrap().contains("[DONE]"));
    server.idle().await;
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
    let again = server.http.delete(&url).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_recording_is_kept_for_a_while_and_its_owner_only() {
    let files = Files::new();
    let (keys, made) = files.write_keys(["alice", "bob"]);
    let arguments = ["--api-keys", keys.to_str().unwrap(), "--retention", "0.5"];
    let server = Server::start(&files.config(&arguments)).await;
    let [alice, bob] = [0, 1].map(|at: usize| server.with_key(&made[at]));
    let response = alice.send(&resumable(&files, 4)).await;
    let id = conversation(&response);
    response.text().await.unwrap();
    let ended = Instant::now();
    let status = resume(&alice, &id, "").await.status();
    // On a slow machine the recording is already deleted, which is tested below.
    assert!(status == StatusCode::OK || ended.elapsed() > Duration::from_millis(400));
    let foreign = resume(&bob, &id, "").await;
    assert_eq!(foreign.status(), StatusCode::NOT_FOUND);
    let error = envelope(foreign.json().await.unwrap());
    assert_eq!(error["code"], "stream_not_found");
    assert_eq!(
        resume(&server, &id, "").await.status(),
        StatusCode::UNAUTHORIZED
    );
    while resume(&alice, &id, "").await.status() == StatusCode::OK {
        assert!(ended.elapsed() < Duration::from_secs(20), "kept");
    }
    assert!(ended.elapsed() >= Duration::from_millis(450));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let files = Files::new();
    let server = files.serve().await;
    let whole = json!({"resumable": true, "max_tokens": 4});
    let (status, error) = server.refused(&with(question("Hello!"), whole)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["param"], "resumable");
    for (path, status) in [
        ("/v1/stream", StatusCode::BAD_REQUEST),
        ("/v1/stream?conv_id=a&from=x", StatusCode::BAD_REQUEST),
        ("/v1/stream?conv_id=never", StatusCode::NOT_FOUND),
    ] {
        let response = server.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        envelope(response.json().await.unwrap());
    }
}

#[tokio::test]
async fn while_it_stops_the_server_says_so_and_takes_nothing_new() {
    let files = Files::new();
    let mut server = files.serve().await;
    // The turn counts although nobody reads it.
    let mut response = server.send(&resumable(&files, 3900)).await;
    response.chunk().await.unwrap().unwrap();
    server.stop();
    let since = Instant::now();
    let mut ready = server.get("/readyz").await;
    while ready.status() != StatusCode::SERVICE_UNAVAILABLE {
        assert!(since.elapsed() < Duration::from_secs(5), "still ready");
        ready = server.get("/readyz").await;
    }
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(ready["status"], "draining");
    let (status, error) = server.refused(&question("Hello!")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(error["code"], "shutting_down");
    let text = response.text().await.unwrap();
    assert!(text.contains("[DONE]"));
    server.stopped().await;
}

#[tokio::test]
async fn what_takes_longer_than_the_drain_timeout_is_cut_off_and_its_client_is_told() {
    let files = Files::new();
    let mut server = Server::start(&files.config(&["--drain-timeout", "0.05"])).await;
    let mut response = server.send(&body(&files, 3900, json!({}))).await;
    response.chunk().await.unwrap().unwrap();
    let since = Instant::now();
    server.stop();
    let text = response.text().await.unwrap();
    assert!(
        text.contains("\"shutting_down\"") && text.contains("[DONE]"),
        "{text}"
    );
    server.stopped().await;
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn other_events_than_openais_are_gone_on_with_as_they_were() {
    let files = Files::new();
    let server = files.serve().await;
    for events in ["vercel_ui", "open_webui"] {
        let asked = json!({"resumable": true, "stream_options": {"events": events}});
        let first = server.send(&body(&files, 20, asked)).await;
        let name = conversation(&first);
        let kind = |response: &Response| {
            let header = response.headers().get("x-vercel-ai-ui-message-stream");
            header.cloned()
        };
        let of_first = kind(&first);
        assert_eq!(of_first.is_some(), events == "vercel_ui");
        let whole = numbered(&first.text().await.unwrap());
        let rest = resume(&server, &name, "&from=3").await;
        assert_eq!(kind(&rest), of_first);
        assert_eq!(conversation(&rest), name);
        assert_eq!(numbered(&rest.text().await.unwrap()), whole[3..]);
    }
}

#[tokio::test]
async fn nothing_is_kept_of_the_stream_of_a_deleted_conversation() {
    let files = Files::new();
    let server = files.serve().await;
    let first = server.send(&resumable(&files, 4)).await;
    let name = conversation(&first);
    first.text().await.unwrap();
    assert_eq!(resume(&server, &name, "").await.status(), StatusCode::OK);
    let path = format!("/v1/conversations/{name}");
    server.done("DELETE", &path, Value::Null).await;
    let gone = resume(&server, &name, "").await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}
