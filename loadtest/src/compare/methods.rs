//! The methods: how a round's passage is found and read.

use std::time::Instant;

use reqwest::Method as HttpMethod;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Round;
use super::counters::forwarded;
use super::texts::Conversation;
use crate::client::{Answer, Client, Message, Outcome};

/// How a round is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The model searches with its own state; nobody has read the passage before.
    OnePass,
    /// The model searches with its own state; the passage's keys and values are kept since an earlier answer.
    OnePassKept,
    /// The question is embedded by the same model first, and then stands in a prompt with the passage. The conversation's
    /// cache goes on.
    TwoPasses,
    /// The same, but nothing of earlier rounds is cached.
    TwoPassesUncached,
    /// The question is forwarded once: what its embedding takes stays cached, and the passage is read behind it, as
    /// GritLM's query cache does it. The search is left out, which flatters this method.
    QueryCached,
    /// As [`Method::TwoPasses`], but another server, of a model as large, embeds and finds.
    TwoModels,
    /// Two passes by llama.cpp's server: one for embeddings, one for text, with `cache_prompt`.
    LlamaCpp,
}

impl Method {
    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnePass => "one pass, passage computed",
            Self::OnePassKept => "one pass, passage kept",
            Self::TwoPasses => "two passes, same engine",
            Self::TwoPassesUncached => "two passes, nothing cached",
            Self::QueryCached => "two passes, question cached",
            Self::TwoModels => "two models",
            Self::LlamaCpp => "two passes, llama.cpp",
        }
    }
}

/// The servers that are compared, all of the same weights.
pub struct Servers {
    /// A OneGen server that may be changed: passages are put into its default collection.
    pub onegen: Client,
    /// Another one, with a model as large, that only embeds and finds.
    pub embedder: Option<Client>,
    /// llama.cpp's servers, for text and for embeddings.
    pub llama_cpp: Option<(Client, Client)>,
}

impl Servers {
    /// The methods that these servers allow.
    pub fn methods(&self) -> Vec<Method> {
        let mut methods = vec![
            Method::OnePass,
            Method::OnePassKept,
            Method::TwoPasses,
            Method::TwoPassesUncached,
            Method::QueryCached,
        ];
        methods.extend(self.embedder.as_ref().map(|_| Method::TwoModels));
        methods.extend(self.llama_cpp.as_ref().map(|_| Method::LlamaCpp));
        methods
    }

    /// Does a conversation's rounds and returns what each cost. Putting the passages where they are found costs nothing
    /// here, since it happens before anybody asks.
    pub(super) async fn converse(
        &self,
        method: Method,
        conversation: &Conversation,
        answer: usize,
    ) -> Result<Vec<Round>, String> {
        if let (Method::LlamaCpp, Some(servers)) = (method, &self.llama_cpp) {
            return llama_cpp(servers, conversation, answer).await;
        }
        let finder = match (method, &self.embedder) {
            (Method::TwoModels, Some(embedder)) => embedder,
            _ => &self.onegen,
        };
        let search_path = search_path(finder).await?;
        let rounds = || conversation.rounds.iter().enumerate();
        let documents = rounds().filter_map(|(round, (_, passage))| {
            let key = key(conversation, round);
            Some(json!({"id": key, "text": passage.as_ref()?, "metadata": {"key": key}}))
        });
        let documents = json!({"documents": documents.collect::<Vec<_>>()});
        let put = finder.send(HttpMethod::PUT, "/v1/documents", &documents);
        put.await?;
        if method == Method::OnePassKept {
            for (round, _) in rounds().filter(|(_, (_, passage))| passage.is_some()) {
                let read = [user("Read.".to_owned())];
                let fields = one_pass_fields(&key(conversation, round), 1, false);
                whole(self.onegen.ask_with(&read, &fields, false).await)?;
            }
        }
        let mut messages = Vec::new();
        let is_cached = method != Method::TwoPassesUncached;
        if !is_cached {
            messages.push(system(String::new()));
        }
        let mut costs = Vec::new();
        for (round, (question, passage)) in rounds() {
            let key = key(conversation, round);
            let before = self.forwarded(method).await?;
            let began = Instant::now();
            let searches_itself = matches!(method, Method::OnePass | Method::OnePassKept);
            let (content, fields) = match (passage, searches_itself) {
                (Some(passage), false) if method == Method::QueryCached => {
                    messages.push(user(question.clone()));
                    let fields = plain_fields(1, true);
                    let read = whole(self.onegen.ask_with(&messages, &fields, false).await)?;
                    messages.push(assistant(read.text));
                    (passage.clone(), plain_fields(answer, true))
                }
                (Some(_), true) => (question.clone(), one_pass_fields(&key, answer, true)),
                (Some(_), false) => {
                    let passage = search(finder, &search_path, question, &key).await?;
                    let content = format!("{passage}\n\n{question}");
                    (content, plain_fields(answer, is_cached))
                }
                (None, _) => (question.clone(), plain_fields(answer, is_cached)),
            };
            messages.push(user(content));
            if !is_cached {
                // Another beginning each time shares nothing, not even the template's own words behind it.
                messages[0] = system(format!("{key}."));
            }
            let answer = whole(self.onegen.ask_with(&messages, &fields, false).await)?;
            messages.push(assistant(answer.text.clone()));
            let forwarded = self.forwarded(method).await? - before;
            costs.push(cost(began, &answer, forwarded));
        }
        Ok(costs)
    }

    /// All positions that a method's OneGen servers have forwarded since they started, for turns and for embeddings.
    async fn forwarded(&self, method: Method) -> Result<u64, String> {
        let mut sum = 0;
        let embedder = self
            .embedder
            .as_ref()
            .filter(|_| method == Method::TwoModels);
        for server in [Some(&self.onegen), embedder].into_iter().flatten() {
            sum += forwarded(server).await?;
        }
        Ok(sum)
    }
}

/// Where a server is asked for passages of its default collection, which it lists first.
async fn search_path(finder: &Client) -> Result<String, String> {
    let path = "/v1/vector_stores?order=asc&limit=1";
    let collections: Value = serde_json::from_str(&finder.text(path).await?)
        .map_err(|error| format!("{path} answered no JSON: {error}"))?;
    let name = collections["data"][0]["id"].as_str();
    let name = name.ok_or_else(|| format!("{path} has listed no collection"))?;
    Ok(format!("/v1/vector_stores/{name}/search"))
}

/// Finds a passage with a question that is embedded for it.
async fn search(finder: &Client, path: &str, question: &str, key: &str) -> Result<String, String> {
    let body = json!({"query": question, "max_num_results": 1, "filters": equals(key)});
    let found = finder.send(HttpMethod::POST, path, &body).await?;
    let text = found["data"][0]["content"][0]["text"].as_str();
    let missing = || format!("{path} has not found {key}");
    text.map(str::to_owned).ok_or_else(missing)
}

/// The two passes of a client that has llama.cpp's server: embed, compare, prompt.
async fn llama_cpp(
    (text, embeddings): &(Client, Client),
    conversation: &Conversation,
    answer: usize,
) -> Result<Vec<Round>, String> {
    let mut vectors = Vec::new();
    for (_, passage) in &conversation.rounds {
        if let Some(passage) = passage {
            vectors.push(embed(embeddings, passage).await?.0);
        }
    }
    let (mut messages, mut costs) = (Vec::new(), Vec::new());
    for (question, passage) in &conversation.rounds {
        let began = Instant::now();
        let (content, embedded) = match passage {
            None => (question.clone(), 0),
            Some(passage) => {
                let (query, embedded) = embed(embeddings, question).await?;
                // The search is done, but what is read is what the other methods' filter finds.
                let scores = vectors.iter().map(|vector| product(&query, vector));
                std::hint::black_box(scores.fold(f64::NEG_INFINITY, f64::max));
                (format!("{passage}\n\n{question}"), embedded)
            }
        };
        messages.push(user(content));
        let fields = json!({"max_tokens": answer, "cache_prompt": true, "ignore_eos": true});
        let answer = whole(text.ask_with(&messages, &fields, false).await)?;
        let written = answer
            .forwarded
            .ok_or("llama.cpp's server tells no timings")?;
        costs.push(cost(began, &answer, embedded + written));
        messages.push(assistant(answer.text));
    }
    Ok(costs)
}

/// An embedding, and the positions that were forwarded for it.
async fn embed(embeddings: &Client, text: &str) -> Result<(Vec<f64>, u64), String> {
    let (path, body) = ("/v1/embeddings", json!({"input": text}));
    let answer = embeddings.send(HttpMethod::POST, path, &body).await?;
    let vector = answer["data"][0]["embedding"].as_array();
    let vector = vector.ok_or("/v1/embeddings gave no embedding")?;
    let positions = answer["usage"]["prompt_tokens"].as_u64();
    let positions = positions.ok_or("/v1/embeddings told no usage")?;
    Ok((vector.iter().filter_map(Value::as_f64).collect(), positions))
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn key(conversation: &Conversation, round: usize) -> String {
    format!("{}-{round}", conversation.name)
}

fn equals(key: &str) -> Value {
    json!({"type": "eq", "key": "key", "value": key})
}

/// One token more than the answer is sampled: the one that searches.
fn one_pass_fields(key: &str, answer: usize, store: bool) -> Value {
    json!({"max_tokens": answer + 1, "min_tokens": answer + 1, "store": store, "drafting": false,
        "retrieval": {"forced": true, "max_retrievals": 1, "filter": equals(key)}})
}

/// An answer without a search of the model's own.
fn plain_fields(answer: usize, store: bool) -> Value {
    json!({"max_tokens": answer, "min_tokens": answer, "store": store, "drafting": false,
        "retrieval": {"enabled": false}})
}

fn cost(began: Instant, answer: &Answer, forwarded: u64) -> Round {
    let milliseconds = |instant: Instant| (instant - began).as_secs_f64() * 1e3;
    Round {
        total_ms: milliseconds(answer.last),
        ttft_ms: milliseconds(answer.first_text.unwrap_or(answer.last)),
        forwarded,
    }
}

fn whole(answer: Answer) -> Result<Answer, String> {
    match answer.outcome {
        Outcome::Ok => Ok(answer),
        other => Err(format!("a round was not answered: {other:?}")),
    }
}

fn message(role: &'static str, content: String) -> Message {
    Message { role, content }
}

fn user(content: String) -> Message {
    message("user", content)
}

fn assistant(content: String) -> Message {
    message("assistant", content)
}

fn system(content: String) -> Message {
    message("system", content)
}
