//! What was acknowledged survives `kill -9` in the middle of many clients' work.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::process::{End, Process};
use crate::common::{Client, Files};

const CLIENTS: usize = 4;
const KILLS: usize = 6;
/// Messages of a conversation, after which another one is begun: the context holds more.
const MESSAGES: usize = 24;

/// What one client knows: what the server has acknowledged, and the change that it has not answered yet.
#[derive(Default)]
struct Known {
    conversation: Option<String>,
    /// Roles and texts.
    messages: Vec<(String, String)>,
    /// Documents that are there, with their texts, or gone.
    documents: BTreeMap<String, Option<String>>,
    /// A document that may be either.
    open: Option<String>,
}

/// Sends a request. Returns nothing when the server is gone.
async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Option<Value> {
    let mut request = client
        .http
        .request(method.clone(), format!("{}{path}", client.url));
    if !body.is_null() {
        request = request.json(body);
    }
    let response = request.send().await.ok()?;
    let (status, answer) = (response.status(), response.json().await.ok()?);
    assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
    Some(answer)
}

impl Known {
    /// Works until the server is gone.
    async fn work(&mut self, client: &Client, number: usize, rng: &mut StdRng) {
        while self.step(client, number, rng).await.is_some() {}
    }

    async fn step(&mut self, client: &Client, number: usize, rng: &mut StdRng) -> Option<()> {
        if self.messages.len() >= MESSAGES {
            self.conversation = None;
            self.messages.clear();
        }
        let Some(conversation) = self.conversation.clone() else {
            let created = send(client, Method::POST, "/v1/conversations", &json!({})).await?;
            self.conversation = created["id"].as_str().map(str::to_owned);
            return Some(());
        };
        match rng.random_range(0..4) {
            0 | 1 => {
                let question = format!("What is {}?", rng.random::<u16>());
                // A conversation that had read a document would be refused once that is deleted.
                let body = json!({"model": "onegen", "conversation": conversation, "max_tokens": 5,
                    "messages": [{"role": "user", "content": question}], "retrieval": {"enabled": false}});
                let answer = send(client, Method::POST, "/v1/chat/completions", &body).await?;
                let text = answer["choices"][0]["message"]["content"].as_str();
                self.messages.push(("user".into(), question));
                self.messages
                    .push(("assistant".into(), text.unwrap_or_default().to_owned()));
            }
            2 => {
                let id = format!("{number}-{}", self.documents.len());
                let text = format!("A document with the number {}.", rng.random::<u32>());
                self.open = Some(id.clone());
                let body = json!({"id": id, "text": text});
                send(client, Method::PUT, "/v1/documents", &body).await?;
                self.open = None;
                self.documents.insert(id, Some(text));
            }
            _ => {
                let there = self.documents.iter().filter(|(_, text)| text.is_some());
                let Some(id) = there.map(|(id, _)| id.clone()).next() else {
                    return Some(());
                };
                self.open = Some(id.clone());
                let path = format!("/v1/documents/{id}");
                send(client, Method::DELETE, &path, &Value::Null).await?;
                self.open = None;
                self.documents.insert(id, None);
            }
        }
        Some(())
    }

    /// Compares with what a server has after a kill, and takes over what it had not answered.
    async fn check(&mut self, client: &Client) -> usize {
        if let Some(id) = self.open.take() {
            let text = document(client, &id).await;
            self.documents.insert(id, text);
        }
        for (id, text) in &self.documents {
            assert_eq!(&document(client, id).await, text, "document {id}");
        }
        let Some(conversation) = &self.conversation else {
            return self.documents.len();
        };
        let messages = client.messages(conversation).await;
        // A turn whose end did not reach the client may be there too, whole.
        let acknowledged = self.messages.len();
        let is_there = acknowledged..=acknowledged + 2;
        assert!(is_there.contains(&messages.len()), "{messages:?}");
        assert_eq!(messages.len() % 2, 0, "{messages:?}");
        assert_eq!(messages[..acknowledged], self.messages);
        self.messages = messages;
        self.documents.len() + self.messages.len()
    }
}

/// A document's text, if it is there.
async fn document(client: &Client, id: &str) -> Option<String> {
    let response = client.get(&format!("/v1/documents/{id}")).await;
    if response.status() == StatusCode::NOT_FOUND {
        return None;
    }
    let document: Value = response.json().await.unwrap();
    Some(document["text"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_when_the_server_is_killed() {
    let files = Files::new();
    let mut known: Vec<Known> = (0..CLIENTS).map(|_| Known::default()).collect();
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut checked = 0;
    for _ in 0..KILLS {
        let process = Process::start(&files, &files.data_dir());
        let delay = Duration::from_millis(rng.random_range(300..900));
        let url = process.client.url.clone();
        let clients = known.drain(..).enumerate().map(|(number, mut one)| {
            let (client, mut rng) = (
                Client::new(url.clone()),
                StdRng::seed_from_u64(rng.random()),
            );
            tokio::spawn(async move {
                one.work(&client, number, &mut rng).await;
                one
            })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(delay).await;
        process.end(End::Killed);
        for client in clients {
            known.push(client.await.unwrap());
        }
        let process = Process::start(&files, &files.data_dir());
        checked = 0;
        for one in &mut known {
            checked += one.check(&process.client).await;
        }
        process.end(End::Killed);
    }
    assert!(
        checked > 20,
        "only {checked} things to check: the load was none"
    );
}
