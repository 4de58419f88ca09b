//! The server as the terminal sees it: HTTP and server-sent events.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onegen_proto::{
    ChatCompletionRequest, Conversation, ConversationItem, ConversationItemList,
    ConversationReference, ErrorEnvelope, ItemContent, Readiness,
};
use reqwest::{Certificate, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::stream::Stream;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A server that works sends at least a heartbeat in this time.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// A turn that was just stopped may hold its conversation for another moment.
const BUSY_RETRIES: usize = 10;
const BUSY_WAIT: Duration = Duration::from_millis(150);

/// Where a response tells its conversation before the first event.
const CONVERSATION: &str = "onegen-conversation";

/// Why the server did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{url:?} is no address of a server; one looks like http://127.0.0.1:8080")]
    Url { url: String },
    #[error("{} holds no certificates in PEM: {reason}", path.display())]
    Certificates { path: PathBuf, reason: String },
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
#[derive(Clone)]
pub(super) struct Client {
    url: Url,
    key: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// `cacert` names certificates that are trusted beside those that all trust.
    pub(super) fn new(
        url: &str,
        key: Option<String>,
        cacert: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url {
            url: url.to_owned(),
        };
        // With the slash a path is kept when more is joined to it.
        let base = Url::parse(&format!("{}/", url.trim_end_matches('/')));
        let base = base.map_err(|_| wrong())?;
        if !["http", "https"].contains(&base.scheme()) {
            return Err(wrong());
        }
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT);
        for certificate in cacert.map(certificates).transpose()?.unwrap_or_default() {
            http = http.add_root_certificate(certificate);
        }
        Ok(Self {
            http: http.build().map_err(|_| wrong())?,
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

    /// Begins an answer to the last of the request's messages, which goes on if the connection is lost.
    pub(super) async fn ask(
        &self,
        mut request: ChatCompletionRequest,
        conversation: Option<&str>,
    ) -> Result<Stream, ClientError> {
        request.conversation = conversation.map(|id| ConversationReference::Id(id.to_owned()));
        request.stream = Some(true);
        request.resumable = Some(true);
        let url = self.at(&["v1", "chat", "completions"])?;
        let mut tries = 0;
        loop {
            let asked = self.http.post(url.clone()).json(&request);
            let response = self.send(asked).await?;
            if response.status().is_success() {
                let conversation = response.headers().get(CONVERSATION);
                let conversation = conversation.and_then(|id| Some(id.to_str().ok()?.to_owned()));
                return Ok(Stream::new(self.clone(), response, conversation));
            }
            tries += 1;
            match refusal(response).await {
                busy if busy.is("conversation_busy") && tries <= BUSY_RETRIES => {
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                other => return Err(other),
            }
        }
    }

    /// The events of a conversation's last turn from one on; none where the server has them no more.
    pub(super) async fn resume(
        &self,
        conversation: &str,
        from: usize,
    ) -> Result<Option<Response>, ClientError> {
        let mut url = self.at(&["v1", "stream"])?;
        url.query_pairs_mut()
            .append_pair("conv_id", conversation)
            .append_pair("from", &from.to_string());
        let response = self.send(self.http.get(url)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            _ => Err(refusal(response).await),
        }
    }

    /// Ends the conversation's running turn, if there is one.
    pub(super) async fn stop(&self, conversation: &str) -> Result<(), ClientError> {
        let mut url = self.at(&["v1", "stream"])?;
        url.query_pairs_mut().append_pair("conv_id", conversation);
        self.send(self.http.delete(url)).await.map(drop)
    }

    /// How many messages a conversation holds, and the text of the last; none where there is none.
    pub(super) async fn last_message(
        &self,
        conversation: &str,
    ) -> Result<Option<(usize, String)>, ClientError> {
        let about = self.at(&["v1", "conversations", conversation])?;
        let Some(about) = self.found::<Conversation>(about).await? else {
            return Ok(None);
        };
        let items = self.at(&["v1", "conversations", conversation, "items"])?;
        let items = self.found::<ConversationItemList>(items).await?;
        let mut items = items.into_iter().flat_map(|items| items.data);
        let text = items.find_map(|item| match item {
            ConversationItem::Message(message) => message.content.into_iter().next(),
            ConversationItem::Retrieval(_) => None,
        });
        Ok(text.map(|content| match content {
            ItemContent::InputText { text } | ItemContent::OutputText { text, .. } => {
                (about.onegen.messages, text)
            }
        }))
    }

    /// Has the server forget a conversation, if it knows it.
    pub(super) async fn forget(&self, conversation: &str) -> Result<(), ClientError> {
        let url = self.at(&["v1", "conversations", conversation])?;
        let response = self.send(self.http.delete(url)).await?;
        match response.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(refusal(response).await),
        }
    }

    async fn found<T: DeserializeOwned>(&self, url: Url) -> Result<Option<T>, ClientError> {
        let response = self.send(self.http.get(url)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let found = response.json().await;
                found.map(Some).map_err(|error| self.strange(error))
            }
            _ => Err(refusal(response).await),
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

/// The certificates of a file.
fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let wrong = |reason: String| ClientError::Certificates {
        path: path.to_owned(),
        reason,
    };
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(none) if none.is_empty() => Err(wrong("there is none in it".to_owned())),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(innermost(&error))),
    }
}

/// What lies at the bottom of an error: "connection refused" rather than "error sending request".
pub(super) fn innermost(error: &reqwest::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_segment_and_a_path_before_is_kept() {
        let client = Client::new("http://localhost:1/behind/", None, None).unwrap();
        let url = client.at(&["v1", "documents", "a/b?c#ü"]).unwrap();
        let expected = "http://localhost:1/behind/v1/documents/a%2Fb%3Fc%23%C3%BC";
        assert_eq!(url.as_str(), expected);
        for bad in ["localhost", "ftp://localhost", "http://"] {
            assert!(Client::new(bad, None, None).is_err(), "{bad}");
        }
    }
}
