//! A running server, which is asked over HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use onegen_proto::{ChatCompletion, ErrorEnvelope, FinishReason};
use serde_json::{Value, json};

use super::asking::{Answer, Source, TurnRequest};
use super::data::{Exchange, Set};
use super::local::dictated;
use super::pool::DEEPEST;

/// Documents sent together.
const BATCH: usize = 100;

/// The longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A server and the collection that is searched.
pub struct RemoteServer {
    client: reqwest::Client,
    url: String,
    key: Option<String>,
    collection: Option<String>,
    /// Whether the passages are uploaded to the collection, or are in it already.
    uploads: bool,
    set: Option<Arc<Set>>,
    /// The places of passages, by their ids.
    at: HashMap<String, usize>,
}

/// Conversations with a server.
pub struct RemoteSession<'a> {
    remote: &'a RemoteServer,
}

/// The server's reply.
enum Reply {
    Completion(Box<ChatCompletion>),
    /// The conversation does not fit the context.
    TooLong,
}

impl RemoteServer {
    /// A server at a URL without `/v1`. `collection` is the one to search, the server's default one if
    /// `None`; with `uploads` the passages of each set are put into it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        url: &str,
        key: Option<String>,
        collection: Option<String>,
        uploads: bool,
    ) -> Result<Self> {
        Ok(Self {
            client: reqwest::Client::builder().timeout(PATIENCE).build()?,
            url: url.trim_end_matches('/').to_owned(),
            key,
            collection,
            uploads,
            set: None,
            at: HashMap::new(),
        })
    }

    /// Whether passages can be given. This needs uploaded passages, whose ids are known.
    pub fn takes_passages(&self) -> bool {
        self.uploads
    }

    /// Uploads the passages of a set, if this is wanted. Returns 0, because the server splits passages
    /// that are too long.
    ///
    /// # Errors
    /// The server cannot be reached or refused them.
    pub async fn learn(
        &mut self,
        set: &Arc<Set>,
        mut on_progress: impl FnMut(usize),
    ) -> Result<usize> {
        self.at = set
            .passages
            .iter()
            .enumerate()
            .map(|(at, passage)| (passage.id.clone(), at))
            .collect();
        self.set = Some(set.clone());
        if !self.uploads {
            return Ok(0);
        }
        for (number, chunk) in set.passages.chunks(BATCH).enumerate() {
            on_progress(number * BATCH);
            let documents: Vec<Value> = chunk
                .iter()
                .map(|passage| {
                    json!({
                        "id": passage.id, "title": passage.title, "text": passage.text,
                        "metadata": { "exam_set": set.name, "exam_id": passage.id },
                    })
                })
                .collect();
            let body = json!({ "collection": self.collection, "documents": documents });
            let reply = self.post("/v1/documents", &body).await?;
            if !reply.status().is_success() {
                bail!("the server took no documents: {}", reply.text().await?);
            }
        }
        Ok(0)
    }

    /// Begins a session.
    pub fn session(&self) -> RemoteSession<'_> {
        RemoteSession { remote: self }
    }

    async fn post(&self, path: &str, body: &Value) -> Result<reqwest::Response> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.post(&url).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        request
            .send()
            .await
            .with_context(|| format!("no answer from {url}"))
    }

    /// A request's `retrieval`.
    fn retrieval(&self, source: &Source, max_retrievals: usize) -> Value {
        if *source == Source::Nothing {
            return json!({ "enabled": false });
        }
        let mut filters = Vec::new();
        if let Some(set) = self.set.as_ref().filter(|_| self.uploads) {
            filters.push(json!({ "type": "eq", "key": "exam_set", "value": set.name }));
            if let Source::Given(passages) = source {
                let ids: Vec<_> = passages.iter().map(|at| &set.passages[*at].id).collect();
                filters.push(json!({ "type": "in", "key": "exam_id", "value": ids }));
            }
        }
        let mut retrieval = json!({
            "forced": matches!(source, Source::OwnForced | Source::Given(_)),
            "collection": self.collection,
            "k": DEEPEST,
            "max_retrievals": max_retrievals,
        });
        if !filters.is_empty() {
            retrieval["filter"] = json!({ "type": "and", "filters": filters });
        }
        retrieval
    }

    async fn complete(&self, mut body: Value) -> Result<Reply> {
        body["model"] = json!("onegen");
        let reply = self.post("/v1/chat/completions", &body).await?;
        if reply.status().is_success() {
            let completion = reply.json().await.context("the answer cannot be read")?;
            return Ok(Reply::Completion(completion));
        }
        let status = reply.status();
        let text = reply.text().await?;
        let error = serde_json::from_str::<ErrorEnvelope>(&text);
        let code = error.ok().and_then(|envelope| envelope.error.code);
        if code.as_deref() == Some("context_length_exceeded") {
            return Ok(Reply::TooLong);
        }
        bail!("the server refused a question with {status}: {text}")
    }

    /// The place of a passage. The server may have found only a part of it.
    fn place(&self, id: &str) -> Option<usize> {
        let whole = || {
            let (document, part) = id.rsplit_once('#')?;
            part.parse::<usize>().ok()?;
            self.at.get(document)
        };
        self.at.get(id).or_else(whole).copied()
    }

    fn answer(&self, completion: ChatCompletion, ask: &TurnRequest<'_>) -> Result<Answer> {
        let choice = completion.choices.into_iter().next();
        let choice = choice.context("the answer holds no choice")?;
        let retrievals = completion.onegen.retrievals;
        let last_read = choice.message.annotations.last();
        let before = last_read.map_or(0, |mark| mark.url_citation.start_index);
        let text: String = choice.message.content.chars().skip(before).collect();
        let mut ranking = Vec::new();
        let first = retrievals.iter().take(1);
        for passage in first.flat_map(|receipt| &receipt.passages) {
            let place = self.place(&passage.id);
            ranking.extend(place.filter(|place| !ranking.contains(place)));
        }
        let read = retrievals
            .iter()
            .filter_map(|receipt| receipt.passages.first());
        Ok(Answer {
            text: text.trim().to_owned(),
            began_with_retrieval: retrievals.iter().any(|receipt| receipt.at_token == 0),
            searches: retrievals.len(),
            read: read.filter_map(|passage| self.place(&passage.id)).collect(),
            ranking,
            too_long: choice.finish_reason == FinishReason::Length
                && completion.usage.completion_tokens < ask.max_tokens,
        })
    }
}

impl RemoteSession<'_> {
    /// Asks and waits for the answer. Earlier turns are asked first, with dictated answers, so that the
    /// server recognises the transcript and has read the same passages as in serving.
    ///
    /// # Errors
    /// The server cannot be reached or failed.
    pub async fn ask(&mut self, ask: &TurnRequest<'_>) -> Result<Answer> {
        let mut messages: Vec<Value> = ask
            .system
            .map(|text| json!({ "role": "system", "content": text }))
            .into_iter()
            .collect();
        for turn in ask.history {
            messages.push(json!({ "role": "user", "content": turn.q }));
            if self.remote.uploads && !self.dictate(&messages, turn, ask).await? {
                return Ok(Answer {
                    too_long: true,
                    ..Answer::default()
                });
            }
            messages.push(json!({ "role": "assistant", "content": dictated(turn) }));
        }
        messages.push(json!({ "role": "user", "content": ask.message }));
        let reply = self.remote.complete(json!({
            "messages": messages,
            "max_completion_tokens": ask.max_tokens,
            "retrieval": self.remote.retrieval(&ask.source, ask.max_retrievals),
        }));
        match reply.await? {
            Reply::Completion(completion) => self.remote.answer(*completion, ask),
            Reply::TooLong => Ok(Answer {
                too_long: true,
                ..Answer::default()
            }),
        }
    }

    /// Asks an earlier turn with a dictated answer. Returns whether it fits the context.
    async fn dictate(
        &self,
        messages: &[Value],
        turn: &Exchange,
        ask: &TurnRequest<'_>,
    ) -> Result<bool> {
        let source = Source::Given(ask.history_reads.to_vec());
        let reply = self.remote.complete(json!({
            "messages": messages,
            "structured_outputs": { "choice": [dictated(turn)] },
            "retrieval": self.remote.retrieval(&source, ask.history_reads.len().max(1)),
        }));
        Ok(matches!(reply.await?, Reply::Completion(_)))
    }

    /// Ends the session. The server forgets conversations when it needs the room.
    pub async fn close(self) {}
}
