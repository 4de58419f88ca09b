//! Keys are replaced and withdrawn while the server runs, and conversations are shared out among
//! owners.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Client, Files, Server, content, conversation, envelope, question, with};
use onegen_server::{NewKey, Scope};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

/// A server with a file of keys, and a client for each key. The first key is an administrator's.
struct KeyedServer {
    files: Files,
    /// Stops when it is dropped.
    _server: Server,
    entries: Vec<String>,
    clients: Vec<Client>,
}

impl KeyedServer {
    async fn new(names: &[&str], more: &[&str]) -> Self {
        let files = Files::new();
        let mut entries = Vec::new();
        let mut keys = Vec::new();
        for name in names {
            let scopes = if entries.is_empty() {
                vec![Scope::Admin]
            } else {
                vec![Scope::Chat]
            };
            let made = NewKey::new((*name).to_owned(), scopes, None);
            keys.push(made.key().to_owned());
            entries.push(made.entry().unwrap());
        }
        let file = files.dir.path().join("keys.toml");
        fs::write(&file, entries.join("\n")).unwrap();
        let mut arguments = vec!["--api-keys", file.to_str().unwrap()];
        arguments.extend(more);
        let server = Server::start(&files.config(&arguments)).await;
        let clients = keys.iter().map(|key| server.with_key(key)).collect();
        Self {
            files,
            _server: server,
            entries,
            clients,
        }
    }

    /// Leaves these keys in the file and has it read again.
    async fn keep(&self, kept: &[usize]) {
        let entries: Vec<_> = kept.iter().map(|&at| self.entries[at].as_str()).collect();
        let file = self.files.dir.path().join("keys.toml");
        fs::write(file, entries.join("\n")).unwrap();
        let reloaded = self.clients[0]
            .done("POST", "/v1/admin/reload", Value::Null)
            .await;
        assert_eq!(reloaded["failed"], json!([]));
    }

    fn short(&self) -> Value {
        self.files.without_retrieval(4)
    }

    /// As long as the context allows: minutes, if nothing ends it.
    fn long(&self) -> Value {
        let fields = self.files.without_retrieval(3900);
        with(question("Hello!"), fields)
    }

    /// Begins to read a long stream.
    async fn stream(&self, client: usize, more: Value) -> Response {
        let body = with(with(self.long(), json!({"stream": true})), more);
        let mut response = self.clients[client].send(&body).await;
        assert_eq!(response.status(), StatusCode::OK);
        // First the role, and then the model's text.
        for _ in 0..3 {
            response.chunk().await.unwrap().unwrap();
        }
        response
    }

    async fn running(&self) -> f64 {
        self.clients[0].metric("onegen_num_requests_running").await
    }

    /// Waits until the engine holds so many conversations and runs no turn.
    async fn settles_with(&self, conversations: f64) {
        let since = Instant::now();
        loop {
            let held = self.clients[0].metric("onegen_conversations").await;
            if held == conversations && self.running().await == 0.0 {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "{held} are held");
        }
    }
}

/// The error that ends a stream, if one does.
async fn end(response: Response) -> Option<Value> {
    let text = response.text().await.unwrap();
    let events: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    let [.., last, "[DONE]"] = events[..] else {
        panic!("no end: {text}");
    };
    let last: Value = serde_json::from_str(last).unwrap();
    last.get("error").is_some().then(|| envelope(last))
}

#[tokio::test]
async fn a_key_takes_anothers_place_while_both_are_good() {
    let keyed = KeyedServer::new(
        &["admin", "alice", "alice"],
        &["--requests-per-minute", "4"],
    )
    .await;
    let [_, old, new] = &keyed.clients[..] else {
        unreachable!();
    };
    let first = old.complete(&with(question("Hello!"), keyed.short())).await;
    // The owner is the same, so its conversations and its share of them are the same.
    let next = with(
        question("And?"),
        json!({"conversation": conversation(&first)}),
    );
    let next = with(next, keyed.short());
    let second = new.complete(&next).await;
    assert_eq!(conversation(&second), conversation(&first));
    old.complete(&next).await;
    keyed.keep(&[0, 2]).await;
    let (status, error) = old.refused(&next).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_api_key"))
    );
    new.complete(&next).await;
    let (status, _) = new.refused(&next).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_key_that_is_taken_out_ends_its_turns_and_no_others() {
    let keyed = KeyedServer::new(&["admin", "alice", "alice", "bob"], &[]).await;
    let mut gone = keyed.stream(1, json!({})).await;
    let mut goes_on_alone = keyed.stream(1, json!({"resumable": true})).await;
    let same_owner = keyed.stream(2, json!({"max_tokens": 1500})).await;
    let other = keyed.stream(3, json!({"max_tokens": 1500})).await;
    // Many requests at once, so that they take longer than withdrawing a key.
    let whole = json!({
        "model": "onegen", "prompt": vec!["Peru"; 16], "max_tokens": 3900,
        "logit_bias": keyed.files.bias(false),
    });
    let whole = keyed.clients[1].ask("POST", "/v1/completions", whole);
    let taken_out = async {
        while keyed.running().await < 20.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        keyed.keep(&[0, 2, 3]).await;
        Instant::now()
    };
    let ((status, refused), taken_out) = tokio::join!(whole, taken_out);
    // A request without streaming is refused like any other request with a withdrawn key.
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused}");
    assert_eq!(envelope(refused)["code"], "withdrawn_api_key");
    for stream in [&mut gone, &mut goes_on_alone] {
        let mut text = Vec::new();
        while let Some(more) = stream.chunk().await.unwrap() {
            text.extend(more);
        }
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("withdrawn_api_key") && text.contains("data: [DONE]\n"),
            "{text}"
        );
    }
    assert!(taken_out.elapsed() < Duration::from_secs(5));
    // Turns of other keys are finished, also those of the same owner.
    assert_eq!(end(same_owner).await, None);
    assert_eq!(end(other).await, None);
    // The stopped turns have left no trace.
    keyed.settles_with(2.0).await;
}

#[tokio::test]
async fn a_file_that_is_read_again_unchanged_ends_nothing() {
    let keyed = KeyedServer::new(&["admin", "alice"], &[]).await;
    let stream = keyed.stream(1, json!({"max_tokens": 1000})).await;
    keyed.keep(&[1, 0]).await;
    assert_eq!(end(stream).await, None);
}

#[tokio::test]
async fn one_key_cannot_push_out_anothers_conversations() {
    let keyed = KeyedServer::new(&["admin", "alice", "bob"], &["--max-conversations", "4"]).await;
    let [_, alice, bob] = &keyed.clients[..] else {
        unreachable!();
    };
    let begin = async |client: &Client, text: &str| {
        client.complete(&with(question(text), keyed.short())).await
    };
    let mine = [begin(bob, "One.").await, begin(bob, "Two.").await];
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(begin(alice, &format!("Flood {n}.")).await);
    }
    let goes_on = |answer: &Value| {
        let next = json!({"conversation": conversation(answer)});
        with(with(question("And?"), next), keyed.short())
    };
    for answer in &mine {
        let next = bob.complete(&goes_on(answer)).await;
        // Nothing of it was forgotten, in the engine either.
        assert!(!content(&next).is_empty());
        let cached = &next["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert!(cached.as_u64().unwrap() > 0, "{next}");
    }
    for (at, answer) in others.iter().enumerate() {
        let response = alice.send(&goes_on(answer)).await;
        let expected = if at < 6 {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::OK
        };
        assert_eq!(response.status(), expected, "{at}");
    }
    // The engine holds no other either.
    keyed.settles_with(4.0).await;
}
