//! Asks a server one turn and measures the answer as it comes.

use std::time::{Duration, Instant};

use eventsource_stream::Eventsource;
use futures::StreamExt;
use onegen_proto::{ChunkExtension, ErrorBody, Receipt};
use reqwest::header::{HeaderMap, HeaderValue, InvalidHeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Bytes of an error's body that are read.
const ERROR_BODY: usize = 64 << 10;

/// A server and what every request to it says.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    model: String,
    /// Fields that every request gets, over the client's own.
    extra: Map<String, Value>,
    timeout: Duration,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key holds what no header may hold.
    #[error("the API key cannot be sent in a header: {0}")]
    Key(#[from] InvalidHeaderValue),
    /// TLS or the name resolver cannot be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// A message of a conversation.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The answer came whole.
    Ok,
    /// The client left after the first text, as the plan says.
    Disconnected,
    /// The server answered with an error.
    Refused {
        /// The status, or 200 if the error came inside the stream.
        status: u16,
        /// The error's code or, without one, its message.
        reason: String,
    },
    /// The stream ended, or broke, before the answer did.
    CutOff {
        /// What was seen.
        reason: String,
    },
    /// No connection, or no answer over it.
    Unreachable {
        /// What was seen.
        reason: String,
    },
    /// The answer was not there in time.
    TimedOut,
    /// It was not sent, since as many requests as allowed were under way.
    Dropped,
    /// The run ended before the answer did.
    Unfinished,
}

impl Outcome {
    /// Whether it ended in another way than whole or, as planned, without its client.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Ok | Self::Disconnected)
    }
}

/// An answer, or what there was of it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// When the first text came.
    pub first_text: Option<Instant>,
    /// When the last text came, or the request ended.
    pub last: Instant,
    /// Times between two pieces of text.
    pub gaps: Vec<Duration>,
    /// The text.
    pub text: String,
    /// What the server counted.
    pub usage: Usage,
    /// The retrievals that a OneGen server told of.
    pub retrievals: Vec<Receipt>,
    /// Positions that llama.cpp's server tells that it has forwarded.
    pub forwarded: Option<u64>,
}

/// Tokens by a server's count. What it does not tell is 0.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens that were read.
    pub prompt_tokens: usize,
    /// Tokens that were written.
    pub completion_tokens: usize,
    /// Parts of the first.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Parts of [`Usage::prompt_tokens`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct PromptTokensDetails {
    /// Those that were not computed again.
    pub cached_tokens: usize,
}

/// The part of a chunk that is measured. Peers leave out what OpenAI requires, so nothing is required here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
    timings: Option<Timings>,
    onegen: Option<ChunkExtension>,
}

/// What llama.cpp's server counts: tokens of the prompt that it did not have, and tokens that it wrote.
#[derive(Deserialize)]
struct Timings {
    prompt_n: u64,
    predicted_n: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<String>,
}

impl Answer {
    /// An answer of which nothing came.
    pub fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            first_text: None,
            last: Instant::now(),
            gaps: Vec::new(),
            text: String::new(),
            usage: Usage::default(),
            retrievals: Vec::new(),
            forwarded: None,
        }
    }

    fn add_text(&mut self, text: &str) {
        let now = Instant::now();
        match self.first_text {
            None => self.first_text = Some(now),
            Some(_) => self.gaps.push(now - self.last),
        }
        self.last = now;
        self.text.push_str(text);
    }

    fn end(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
}

impl Client {
    /// A client of the server at `base`, which ends before `/v1`.
    ///
    /// # Errors
    /// The key cannot be sent, or the HTTP client cannot be set up.
    pub fn new(
        base: Url,
        model: String,
        key: Option<&str>,
        extra: Map<String, Value>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
            value.set_sensitive(true);
            headers.insert("authorization", value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            base,
            model,
            extra,
            timeout,
        })
    }

    /// The model that requests name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// `path` may end with a query.
    fn url(&self, path: &str) -> Url {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        if query.is_some() {
            url.set_query(query);
        }
        url
    }

    /// Sends JSON and returns the JSON of the answer.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let url = self.url(path);
        let request = self.http.request(method, url.clone()).json(body);
        let answer = self.accepted(request).await?.json().await;
        answer.map_err(|error| format!("{url} answered no JSON: {}", innermost(&error)))
    }

    /// The text behind a path.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn text(&self, path: &str) -> Result<String, String> {
        let response = self.accepted(self.http.get(self.url(path))).await?;
        response.text().await.map_err(|error| innermost(&error))
    }

    /// Sends a request and returns its response if it says that all is well.
    async fn accepted(&self, request: RequestBuilder) -> Result<Response, String> {
        let response = request.timeout(self.timeout).send().await;
        let response = response.map_err(|error| innermost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (url, status) = (response.url().clone(), response.status());
        let reason = refusal(response).await;
        Err(format!("{url} answered {status}: {reason}"))
    }

    /// The names of the server's models.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn models(&self) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        let url = self.url("/v1/models");
        let models = self.accepted(self.http.get(url.clone())).await?.json();
        let models: Models = models
            .await
            .map_err(|error| format!("{url} is no list of models: {}", innermost(&error)))?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }

    /// Asks a turn; `messages` are those of the whole conversation. With `disconnects` the client leaves after the
    /// first text.
    pub async fn ask(&self, messages: &[Message], max_tokens: usize, disconnects: bool) -> Answer {
        let body = json!({"max_tokens": max_tokens});
        self.ask_with(messages, &body, disconnects).await
    }

    /// [`Self::ask`] with fields of its own for this request.
    pub async fn ask_with(
        &self,
        messages: &[Message],
        fields: &Value,
        disconnects: bool,
    ) -> Answer {
        let answer = self.answer(messages, fields, disconnects);
        let timed_out = |_| Answer::nothing(Outcome::TimedOut);
        tokio::time::timeout(self.timeout, answer)
            .await
            .unwrap_or_else(timed_out)
    }

    async fn answer(&self, messages: &[Message], fields: &Value, disconnects: bool) -> Answer {
        let own = json!({
            "model": self.model, "messages": messages, "temperature": 0, "stream": true,
            "stream_options": {"include_usage": true},
        });
        let own = [&own, fields].into_iter().filter_map(Value::as_object);
        let all = own.chain([&self.extra]).flatten();
        let body: Map<String, Value> = all
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let request = self.http.post(self.url("/v1/chat/completions"));
        let response = match request.json(&body).send().await {
            Ok(response) => response,
            Err(error) => {
                let reason = innermost(&error);
                return Answer::nothing(Outcome::Unreachable { reason });
            }
        };
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            let reason = refusal(response).await;
            return Answer::nothing(Outcome::Refused { status, reason });
        }
        read(response, disconnects).await
    }
}

/// Reads a stream to its end.
async fn read(response: Response, disconnects: bool) -> Answer {
    let mut events = response.bytes_stream().eventsource();
    let mut answer = Answer::nothing(Outcome::Ok);
    let mut finished = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let reason = innermost(&error);
                return answer.end(Outcome::CutOff { reason });
            }
        };
        if event.data == "[DONE]" {
            return answer;
        }
        let chunk: Chunk = match serde_json::from_str(&event.data) {
            Ok(chunk) => chunk,
            Err(error) => {
                let reason = format!("an event is no chunk: {error}");
                return answer.end(Outcome::CutOff { reason });
            }
        };
        if let Some(error) = chunk.error {
            let reason = said(error);
            return answer.end(Outcome::Refused {
                status: 200,
                reason,
            });
        }
        for choice in chunk.choices {
            finished |= choice.finish_reason.is_some();
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                answer.add_text(&text);
            }
        }
        answer.usage = chunk.usage.unwrap_or(answer.usage);
        let timings = chunk.timings.map(|one| one.prompt_n + one.predicted_n);
        answer.forwarded = timings.or(answer.forwarded);
        if let Some(retrieval) = chunk.onegen.and_then(|onegen| onegen.retrieval) {
            answer.retrievals.push(retrieval);
        }
        if disconnects && answer.first_text.is_some() {
            return answer.end(Outcome::Disconnected);
        }
    }
    // Not every server ends with [DONE], but all say why they finished.
    if finished {
        return answer;
    }
    answer.end(Outcome::CutOff {
        reason: "the stream ended before the answer did".into(),
    })
}

/// What an error's body says.
async fn refusal(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > ERROR_BODY {
            break;
        }
    }
    match serde_json::from_slice::<Value>(&body) {
        Ok(mut value) => said(value["error"].take()),
        Err(_) => "its body is no JSON".into(),
    }
}

/// An error's code or, without one, its message.
fn said(error: Value) -> String {
    match serde_json::from_value::<ErrorBody>(error.clone()) {
        Ok(error) => error.code.unwrap_or(error.message),
        Err(_) => match error.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => error.to_string(),
        },
    }
}

/// The cause at the bottom of an error, which names what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
