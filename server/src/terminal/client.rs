//! The server as the terminal sees it: HTTP and server-sent events.

use std::collections::VecDeque;
use std::time::Duration;

use onegen_proto::{
    ChatCompletionChunk, ChatCompletionRequest, ConversationReference, ErrorEnvelope, Readiness,
    RequestMessage, RetrievalOptions,
};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A server that works sends at least a heartbeat in this time.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// A turn that was just stopped may hold its conversation for another moment.
const BUSY_RETRIES: usize = 10;
const BUSY_WAIT: Duration = Duration::from_millis(150);

/// Why the server did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{url:?} is no address of a server; one looks like http://127.0.0.1:8080")]
    Url { url: String },
    #[error(
        "no server answers at {url} ({reason}); start one with `onegen-server`, or name another with --url"
    )]
    Unreachable { url: Url, reason: String },
    #[error("the server wants an API key: {message}; give one with --key or ONEGEN_KEY")]
    Key { message: String },
    #[error("{message}")]
    Refused {
        message: String,
        code: Option<String>,
    },
    #[error("{url} answers, but not as a OneGen server does: {reason}")]
    Strange { url: Url, reason: String },
    #[error("the connection was lost before the answer's end: {0}")]
    Lost(String),
}

impl ClientError {
    /// Whether the server gave this code.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == wanted)
    }

    /// Whether nobody knows what the server has done.
    pub(super) fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost(_))
    }
}

/// Who asks a server.
pub(super) struct Client {
    url: Url,
    key: Option<String>,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(url: &str, key: Option<String>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url {
            url: url.to_owned(),
        };
        // With the slash a path is kept when more is joined to it.
        let base = Url::parse(&format!("{}/", url.trim_end_matches('/')));
        let base = base.map_err(|_| wrong())?;
        if !["http", "https"].contains(&base.scheme()) {
            return Err(wrong());
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .build();
        Ok(Self {
            http: http.map_err(|_| wrong())?,
            url: base,
            key,
        })
    }

    /// What is served.
    pub(super) async fn readiness(&self) -> Result<Readiness, ClientError> {
        let response = self.send(self.http.get(self.at(&["readyz"])?)).await?;
        // While it shuts down it says so with another status and the same body.
        if !response.status().is_success() && response.status() != StatusCode::SERVICE_UNAVAILABLE {
            return Err(refusal(response).await);
        }
        response.json().await.map_err(|error| self.strange(error))
    }

    /// Begins an answer to the last of the messages.
    pub(super) async fn ask(
        &self,
        model: &str,
        collection: Option<&str>,
        conversation: Option<&str>,
        messages: &[RequestMessage],
    ) -> Result<Stream, ClientError> {
        let request = ChatCompletionRequest {
            model: model.to_owned(),
            messages: messages.to_vec(),
            conversation: conversation.map(|id| ConversationReference::Id(id.to_owned())),
            retrieval: collection.map(|name| RetrievalOptions {
                collection: Some(name.to_owned()),
                ..RetrievalOptions::default()
            }),
            stream: Some(true),
            ..ChatCompletionRequest::default()
        };
        let url = self.at(&["v1", "chat", "completions"])?;
        for _ in 0..BUSY_RETRIES {
            let response = self
                .send(self.http.post(url.clone()).json(&request))
                .await?;
            if response.status().is_success() {
                return Ok(Stream::new(response));
            }
            match refusal(response).await {
                busy if busy.is("conversation_busy") => tokio::time::sleep(BUSY_WAIT).await,
                other => return Err(other),
            }
        }
        let response = self.send(self.http.post(url).json(&request)).await?;
        match response.status().is_success() {
            true => Ok(Stream::new(response)),
            false => Err(refusal(response).await),
        }
    }

    /// A passage's text, where the server gives it.
    pub(super) async fn passage_text(&self, id: &str, collection: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Document {
            text: String,
        }
        let mut url = self.at(&["v1", "documents", id]).ok()?;
        url.query_pairs_mut().append_pair("collection", collection);
        let response = self.send(self.http.get(url)).await.ok()?;
        let response = response.error_for_status().ok()?;
        let document: Document = response.json().await.ok()?;
        Some(document.text)
    }

    /// An address of the server; segments are encoded.
    fn at(&self, segments: &[&str]) -> Result<Url, ClientError> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(segments),
            // No address of http is without a path.
            Err(()) => {
                return Err(ClientError::Url {
                    url: self.url.to_string(),
                });
            }
        };
        Ok(url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        request
            .send()
            .await
            .map_err(|error| ClientError::Unreachable {
                url: self.url.clone(),
                reason: innermost(&error),
            })
    }

    fn strange(&self, error: reqwest::Error) -> ClientError {
        ClientError::Strange {
            url: self.url.clone(),
            reason: innermost(&error),
        }
    }
}

/// What lies at the bottom of an error: "connection refused" rather than "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

async fn refusal(response: Response) -> ClientError {
    let status = response.status();
    let retry_after = response.headers().get("retry-after");
    let wait = retry_after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (mut message, code) = match response.json::<ErrorEnvelope>().await {
        Ok(envelope) => (envelope.error.message, envelope.error.code),
        Err(_) => (format!("the server answered with status {status}"), None),
    };
    if let Some(seconds) = wait {
        message.push_str(&format!("; it asks to wait {seconds} s"));
    }
    match status {
        StatusCode::UNAUTHORIZED => ClientError::Key { message },
        _ => ClientError::Refused { message, code },
    }
}

/// An answer that comes. Dropped before its end, the server cancels it.
pub(super) struct Stream {
    response: Response,
    events: Events,
}

impl Stream {
    fn new(response: Response) -> Self {
        Self {
            response,
            events: Events::default(),
        }
    }

    /// The next chunk, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<ChatCompletionChunk>, ClientError> {
        loop {
            if let Some(data) = self.events.next() {
                return parse(&data);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.events.push(&bytes),
                Ok(None) => return Err(ClientError::Lost("the stream was cut off".to_owned())),
                Err(error) => return Err(ClientError::Lost(innermost(&error))),
            }
        }
    }
}

fn parse(data: &str) -> Result<Option<ChatCompletionChunk>, ClientError> {
    if data == "[DONE]" {
        return Ok(None);
    }
    let broken = |error: serde_json::Error| ClientError::Lost(format!("bad event: {error}"));
    let value: Value = serde_json::from_str(data).map_err(broken)?;
    if value.get("error").is_some() {
        let ErrorEnvelope { error } = serde_json::from_value(value).map_err(broken)?;
        return Err(ClientError::Refused {
            message: error.message,
            code: error.code,
        });
    }
    serde_json::from_value(value).map(Some).map_err(broken)
}

/// The data of server-sent events, out of bytes that come in any pieces. Comments are left out.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    data: Vec<String>,
    ready: VecDeque<String>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(data) = line.strip_prefix("data:") {
            let data = data.strip_prefix(' ').unwrap_or(data);
            self.data.push(data.to_owned());
        } else if line.is_empty() && !self.data.is_empty() {
            self.ready
                .push_back(std::mem::take(&mut self.data).join("\n"));
        }
    }

    fn next(&mut self) -> Option<String> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_come() {
        let stream = ": heartbeat\r\n\r\ndata: Zürich 🇨🇭\r\n\r\n:\n\nevent: x\ndata: a\ndata:b\n\ndata: [DONE]\n\ndata: cut";
        for size in 1..=stream.len() {
            let mut events = Events::default();
            stream
                .as_bytes()
                .chunks(size)
                .for_each(|piece| events.push(piece));
            let got: Vec<_> = std::iter::from_fn(|| events.next()).collect();
            assert_eq!(got, ["Zürich 🇨🇭", "a\nb", "[DONE]"], "{size}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_told_in_its_words() {
        let event = r#"{"error":{"message":"the server failed","type":"server_error","param":null,"code":"x"}}"#;
        let error = parse(event).unwrap_err();
        assert_eq!(error.to_string(), "the server failed");
        assert!(error.is("x"));
        assert!(parse("[DONE]").unwrap().is_none());
        assert!(matches!(parse("{").unwrap_err(), ClientError::Lost(_)));
    }

    #[test]
    fn ids_are_one_segment_and_a_path_before_is_kept() {
        let client = Client::new("http://localhost:1/behind/", None).unwrap();
        let url = client.at(&["v1", "documents", "a/b?c#ü"]).unwrap();
        let expected = "http://localhost:1/behind/v1/documents/a%2Fb%3Fc%23%C3%BC";
        assert_eq!(url.as_str(), expected);
        for bad in ["localhost", "ftp://localhost", "http://"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
    }
}
