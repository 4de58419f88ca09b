//! A server on a free port, which tests use over real HTTP like a client.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub)]

#[path = "../../../../engine/tests/common/mod.rs"]
pub mod models;

pub mod almanac;
pub mod collector;
pub mod facts;
#[cfg(target_os = "linux")]
#[path = "../../../../index/tests/common/milvus.rs"]
pub mod milvus;
#[cfg(target_os = "linux")]
#[path = "../../../../index/tests/common/postgres.rs"]
pub mod postgres;
pub mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use onegen_engine::{LoadOptions, Model};
use onegen_server::{App, Config, NewKey, Scope, serve};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Positions of the random model: enough for a turn that is still under way when a test looks.
pub const CONTEXT: usize = 4096;

const CORPUS: &str = r#"{"id":"country-peru","title":"Peru","text":"Peru is a country. Its capital is Lima.","url":"https://example.org/peru"}
{"id":"country/chile","title":"Chile","text":"Chile is a country. Its capital is Santiago."}
{"id":"element-gold","title":"Gold","text":"Gold is an element. Its symbol is Au."}
"#;

/// A client of a server.
pub struct Client {
    pub url: String,
    pub http: reqwest::Client,
}

/// A server in this process and a client of it. The server stops when this is dropped.
pub struct Server {
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A random model and a small corpus, in a directory that goes away with the test.
pub struct Files {
    pub dir: TempDir,
    model: TempDir,
}

impl Files {
    pub fn new() -> Self {
        Self::with_seed(7)
    }

    pub fn with_seed(seed: u64) -> Self {
        Self::with_model(models::Family::Qwen3.write(seed))
    }

    /// Files with a model whose passages see only themselves, so that they can be kept.
    pub fn with_block_attention() -> Self {
        let model = models::Family::Qwen3.write(7);
        models::set_block_attention(model.path());
        Self::with_model(model)
    }

    /// Files with a model that links entities.
    pub fn linking() -> Self {
        use models::linking::{Spelling, write_linking};
        Self::with_model(write_linking(models::Family::Llama, Spelling::ByteLevel, 7))
    }

    fn with_model(model: TempDir) -> Self {
        models::edit_json(model.path(), "config.json", |config| {
            config["max_position_embeddings"] = CONTEXT.into();
        });
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("corpus.jsonl"), CORPUS).unwrap();
        Self { dir, model }
    }

    pub fn model(&self) -> &Path {
        self.model.path()
    }

    pub fn corpus(&self) -> PathBuf {
        self.dir.path().join("corpus.jsonl")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Writes a file of keys with these names and the scope `chat`. Returns its path and the keys.
    pub fn write_keys<const N: usize>(&self, names: [&str; N]) -> (PathBuf, [String; N]) {
        let path = self.dir.path().join("keys.toml");
        let mut entries = String::new();
        let keys = names.map(|name| {
            let made = NewKey::new(name.to_owned(), vec![Scope::Chat], None);
            let key = made.key().to_owned();
            entries += &made.entry().unwrap();
            key
        });
        fs::write(&path, entries).unwrap();
        (path, keys)
    }

    /// The configuration that serves these files, with more arguments.
    pub fn config(&self, more: &[&str]) -> Config {
        let (model, corpus, data_dir) = (self.model(), self.corpus(), self.data_dir());
        let mut arguments: Vec<&str> = vec!["onegen-server"];
        arguments.extend(["--model", model.to_str().unwrap()]);
        arguments.extend(["--data-dir", data_dir.to_str().unwrap()]);
        if !more.contains(&"--index") {
            arguments.extend(["--corpus", corpus.to_str().unwrap()]);
        }
        arguments.extend(more);
        Config::try_parse_from(arguments).unwrap()
    }

    pub async fn serve(&self) -> Server {
        Server::start(&self.config(&[])).await
    }

    /// Biases under which a turn neither ends early nor retrieves, or retrieves at its start.
    pub fn bias(&self, retrieve: bool) -> Value {
        let model = Model::load(self.model(), &LoadOptions::default()).unwrap();
        let tokens = model.tokens();
        let mut bias = json!({});
        for id in (0..model.config().vocab_size as u32).filter(|&id| tokens.is_eos(id)) {
            bias[id.to_string()] = (-100).into();
        }
        bias[tokens.query_id().to_string()] = if retrieve { 100.into() } else { (-100).into() };
        bias
    }

    /// Fields of a request whose turn writes exactly so many tokens and never retrieves.
    pub fn without_retrieval(&self, tokens: usize) -> Value {
        json!({"logit_bias": self.bias(false), "max_tokens": tokens})
    }
}

impl Server {
    pub async fn start(config: &Config) -> Self {
        let loading = config.clone();
        let app = tokio::task::spawn_blocking(move || App::load(&loading).unwrap());
        let app = app.await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let drain_timeout = config.listen.drain_timeout;
        let serving = tokio::spawn(serve(listener, app, stopped, drain_timeout));
        Self {
            client: Client::new(url),
            stop: Some(stop),
            serving,
        }
    }

    /// Tells the server to stop.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until it has stopped.
    pub async fn stopped(self) {
        self.serving.await.unwrap().unwrap();
    }
}

impl std::ops::Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Client {
    pub fn new(url: String) -> Self {
        let http = reqwest::Client::new();
        Self { url, http }
    }

    /// The same server, asked with a key.
    pub fn with_key(&self, key: &str) -> Self {
        let mut headers = reqwest::header::HeaderMap::new();
        let value = format!("Bearer {key}").parse().unwrap();
        headers.insert("authorization", value);
        let http = reqwest::Client::builder().default_headers(headers);
        Self {
            url: self.url.clone(),
            http: http.build().unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    pub async fn get_json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// The messages of a conversation, oldest first: who said what. Reads as many pages as there are.
    pub async fn messages(&self, conversation: &str) -> Vec<(String, String)> {
        let path = format!("/v1/conversations/{conversation}/items?order=asc&limit=100");
        let (mut messages, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get_json(&format!("{path}{after}")).await;
            let items = page["data"].as_array().unwrap().iter();
            messages.extend(items.filter(|item| item["type"] == "message").map(|item| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (text(&item["role"]), text(&item["content"][0]["text"]))
            }));
            if page["has_more"] == false {
                return messages;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
    }

    /// Sends a request with a JSON body, if any, and reads the answer as JSON.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Sends a request that must succeed.
    pub async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    /// Sends a request that must be refused. Returns status, code, field at fault and message.
    pub async fn refused_at(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, String, Value, String) {
        let (status, answer) = self.ask(method, path, body).await;
        assert!(!status.is_success(), "{method} {path}: {answer}");
        let error = envelope(answer);
        let text = |key: &str| error[key].as_str().unwrap().to_owned();
        (
            status.as_u16(),
            text("code"),
            error["param"].clone(),
            text("message"),
        )
    }

    /// Posts a chat completion and returns the response.
    pub async fn send(&self, body: &Value) -> Response {
        let url = format!("{}/v1/chat/completions", self.url);
        self.http.post(url).json(body).send().await.unwrap()
    }

    /// Posts a chat completion that must succeed, without streaming.
    pub async fn complete(&self, body: &Value) -> Value {
        let response = self.send(body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body} got {answer}");
        answer
    }

    /// Posts a chat completion that must be refused.
    pub async fn refused(&self, body: &Value) -> (StatusCode, Value) {
        let response = self.send(body).await;
        let status = response.status();
        assert!(!status.is_success(), "{body} was accepted");
        (status, envelope(response.json().await.unwrap()))
    }

    /// Posts a chat completion and reads its stream to the end.
    pub async fn stream(&self, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = self.send(&body).await;
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        chunks(&response.text().await.unwrap())
    }

    /// The value of a metric, as `onegen_x_total{kind="y"}`.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a metric is as it should be, for some ten seconds at most, and returns it.
    pub async fn awaited(&self, name: &str, is_reached: impl Fn(f64) -> bool) -> f64 {
        for _ in 0..2000 {
            if is_reached(self.metric(name).await) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.metric(name).await
    }

    /// Waits until the engine runs no turn; gives the time that this took.
    pub async fn idle(&self) -> Duration {
        let since = Instant::now();
        while self.metric("onegen_num_requests_running").await > 0.0 {
            assert!(since.elapsed() < Duration::from_secs(20), "still running");
        }
        since.elapsed()
    }

    /// Positions forwarded so far, by kind: prompt, generated, retrieval, passage.
    pub async fn forwarded(&self) -> [f64; 4] {
        let mut forwarded = [0.0; 4];
        for (count, kind) in
            forwarded
                .iter_mut()
                .zip(["prompt", "generated", "retrieval", "passage"])
        {
            let name = format!("onegen_forwarded_tokens_total{{kind=\"{kind}\"}}");
            *count = self.metric(&name).await;
        }
        forwarded
    }
}

/// The events of a stream, without the `[DONE]` that must end it.
pub fn chunks(stream: &str) -> Vec<Value> {
    let mut data: Vec<&str> = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{stream}");
    data.into_iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// The error in an envelope. The envelope must hold nothing else, and the error must have all four
/// keys.
pub fn envelope(body: Value) -> Value {
    let keys = |value: &Value| -> Vec<String> {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&body), ["error"], "{body}");
    assert_eq!(keys(&body["error"]), ["code", "message", "param", "type"]);
    body["error"].clone()
}

/// A request of one user message.
pub fn question(text: &str) -> Value {
    json!({"model": "onegen", "messages": [{"role": "user", "content": text}]})
}

/// A request with more fields.
pub fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// The request of a client without conversation ids: all messages that it has seen, and a new
/// question.
pub fn transcript(turns: &[(&str, &Value)], new: &str) -> Value {
    let mut messages = Vec::new();
    for (question, answer) in turns {
        messages.push(json!({"role": "user", "content": question}));
        messages.push(json!({"role": "assistant", "content": content(answer).trim()}));
    }
    messages.push(json!({"role": "user", "content": new}));
    json!({"model": "onegen", "messages": messages})
}

pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

pub fn conversation(answer: &Value) -> &str {
    answer["onegen"]["conversation"].as_str().unwrap()
}

pub fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// Prompt tokens of a chat completion that were in the KV-cache already.
pub fn cached(answer: &Value) -> usize {
    count(&answer["usage"]["prompt_tokens_details"]["cached_tokens"])
}

/// Input tokens of a response (`/v1/responses`) that were in the KV-cache already.
pub fn cached_input(response: &Value) -> usize {
    count(&response["usage"]["input_tokens_details"]["cached_tokens"])
}

/// All tokens of a chat completion or of a response.
pub fn total(answer: &Value) -> usize {
    count(&answer["usage"]["total_tokens"])
}

/// A question in a conversation that the client names.
pub fn by_id(conversation: &str, text: &str) -> Value {
    with(question(text), json!({"conversation": conversation}))
}

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    tests.join(name)
}
