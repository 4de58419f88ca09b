//! Sends traces with the HTTP client that the rest of the server uses. OpenTelemetry's own client would add
//! another version of it, with a second TLS library that is written in C and takes minutes to build.

use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use reqwest::blocking::Client;

/// How long sending a batch may take, unless a variable sets it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that are read of a collector's answer, which is normally a few bytes long.
const MAX_RESPONSE_BYTES: u64 = 4 << 20;

/// Sends from the SDK's own thread, which may block.
#[derive(Debug)]
pub(super) struct Sender(Client);

impl Sender {
    /// `variable` returns the environment's variables by their names. For an invalid timeout the default is
    /// used; the SDK reports it.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let timeout = variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"))
            .and_then(|milliseconds| milliseconds.parse().ok())
            .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        // A blocking client cannot be created on a thread that runs async tasks.
        let made = thread::spawn(move || Client::builder().timeout(timeout).build());
        let made = made.join().map_err(|_| anyhow!("its thread panicked"))?;
        Ok(Self(made?))
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut response = self.0.execute(request.try_into()?)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        response.take(MAX_RESPONSE_BYTES).read_to_end(&mut body)?;
        let mut answer = Response::new(Bytes::from(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}
