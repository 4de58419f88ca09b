//! An answer as it comes, over as many connections as that takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use onegen_proto::{ChatCompletionChunk, ErrorEnvelope};
use reqwest::Response;
use serde_json::Value;

use super::client::{Client, ClientError, innermost};

/// How long a server that is away is waited for: less than it keeps a stream by default.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// An answer that comes. A connection that is lost is made again from the first event that is missing.
pub(super) struct Stream {
    client: Client,
    response: Response,
    conversation: Option<String>,
    events: Events,
    /// The first event that is wanted.
    next: usize,
}

impl Stream {
    /// `conversation` is the server's name for what it is a turn of, if it told.
    pub(super) fn new(client: Client, response: Response, conversation: Option<String>) -> Self {
        Self {
            client,
            response,
            conversation,
            events: Events::default(),
            next: 0,
        }
    }

    /// The conversation that it is a turn of, where the server told.
    pub(super) fn conversation(&self) -> Option<&str> {
        self.conversation.as_deref()
    }

    /// The next chunk, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<ChatCompletionChunk>, ClientError> {
        loop {
            while let Some(event) = self.events.next() {
                let place = event.id.unwrap_or(self.next);
                if place >= self.next {
                    self.next = place + 1;
                    return parse(&event.data);
                }
            }
            let lost = match self.response.chunk().await {
                Ok(Some(bytes)) => {
                    self.events.push(&bytes);
                    continue;
                }
                Ok(None) => "the stream was cut off".to_owned(),
                Err(error) => innermost(&error),
            };
            self.resume(lost).await?;
        }
    }

    async fn resume(&mut self, reason: String) -> Result<(), ClientError> {
        let Some(conversation) = self.conversation.clone() else {
            return Err(ClientError::Lost(reason));
        };
        let since = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            match self.client.resume(&conversation, self.next).await {
                Ok(Some(mut response)) => match response.chunk().await {
                    Ok(Some(bytes)) => {
                        self.events = Events::default();
                        self.events.push(&bytes);
                        self.response = response;
                        return Ok(());
                    }
                    // A turn that was stopped leaves a stream without an end.
                    Ok(None) => return Err(ClientError::Lost("the answer was stopped".to_owned())),
                    Err(_) => {}
                },
                Ok(None) => return Err(ClientError::Lost(reason)),
                Err(error) if since.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
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

/// Server-sent events, out of bytes that come in any pieces. Comments are left out.
///
/// They are read by hand: the format takes thirty lines, and a crate that reconnects by itself would not
/// know how this server resumes a stream (`GET /v1/stream?from=N`).
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
    begun: Event,
    ready: VecDeque<Event>,
}

/// What an event says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<usize>,
    data: String,
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
        let value = |name: &str| {
            let value = line.strip_prefix(name)?;
            Some(value.strip_prefix(' ').unwrap_or(value))
        };
        if let Some(data) = value("data:") {
            if !self.begun.data.is_empty() {
                self.begun.data.push('\n');
            }
            self.begun.data.push_str(data);
        } else if let Some(id) = value("id:") {
            self.begun.id = id.parse().ok();
        } else if line.is_empty() {
            let event = std::mem::take(&mut self.begun);
            if !event.data.is_empty() {
                self.ready.push_back(event);
            }
        }
    }

    fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_come() {
        let stream = ": heartbeat\r\n\r\ndata: Zürich 🇨🇭\r\n\r\n:\n\nevent: x\nid: 7\ndata: a\ndata:b\n\ndata: [DONE]\n\ndata: cut";
        for size in 1..=stream.len() {
            let mut events = Events::default();
            stream
                .as_bytes()
                .chunks(size)
                .for_each(|piece| events.push(piece));
            let got: Vec<_> = std::iter::from_fn(|| events.next()).collect();
            let event = |id, data: &str| Event {
                id,
                data: data.to_owned(),
            };
            let expected = [
                event(None, "Zürich 🇨🇭"),
                event(Some(7), "a\nb"),
                event(None, "[DONE]"),
            ];
            assert_eq!(got, expected, "{size}");
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
}
