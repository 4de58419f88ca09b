//! Spans on their way to a collector. Whoever hands one in waits for nothing; a collector that is away
//! costs spans, and a line in the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{StatusCode, header};
use prost::Message;
use reqwest::redirect::Policy;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::timeout;

use super::otlp::{Export, Resource, ResourceSpans, Scope, ScopeSpans, Span, attribute};
use super::settings::Settings;

/// How long the last spans may take when the server stops.
const LAST: Duration = Duration::from_secs(5);

/// The longest time between two tries.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

pub(super) struct Exporter {
    settings: Settings,
    http: reqwest::Client,
    queue: Mutex<Queue>,
    /// A batch is there.
    filled: Notify,
    /// Held while a batch is sent.
    sending: AsyncMutex<Sending>,
}

#[derive(Default)]
struct Queue {
    spans: VecDeque<Span>,
    /// Since it was told last.
    dropped: u64,
}

#[derive(Default)]
struct Sending {
    /// Whether the last batch did not arrive.
    failing: bool,
}

/// Why a batch did not arrive.
struct Failure {
    reason: String,
    /// Whether it may another time.
    passing: bool,
}

impl Exporter {
    pub(super) fn new(settings: Settings) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(Policy::none())
            .user_agent(concat!("onegen-server/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            settings,
            http,
            queue: Mutex::default(),
            filled: Notify::new(),
            sending: AsyncMutex::default(),
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Queues spans. Beyond the queue's length they are dropped.
    pub(super) fn push(&self, spans: impl IntoIterator<Item = Span>) {
        let mut queue = self.lock();
        for span in spans {
            match queue.spans.len() < self.settings.queue {
                true => queue.spans.push_back(span),
                false => queue.dropped += 1,
            }
        }
        if queue.spans.len() >= self.settings.batch {
            self.filled.notify_one();
        }
    }

    /// Sends what comes, for ever. After a failure it tries less and less often.
    pub(super) async fn run(&self) {
        let mut delay = self.settings.delay;
        loop {
            match delay == self.settings.delay {
                true => _ = timeout(delay, self.filled.notified()).await,
                false => tokio::time::sleep(delay).await,
            }
            delay = match self.send_all().await {
                true => self.settings.delay,
                false => (delay * 2).clamp(self.settings.delay, LONGEST_DELAY.max(delay)),
            };
        }
    }

    /// Sends what is left, as far as that goes within a few seconds.
    pub(super) async fn flush(&self) {
        let arrived = timeout(LAST, self.send_all()).await.unwrap_or(false);
        let queue = self.lock();
        let lost = queue.spans.len() as u64 + queue.dropped;
        if !arrived || lost > 0 {
            tracing::warn!(spans = lost, "some of the last traces did not arrive");
        }
    }

    /// Sends batch by batch until nothing is left; false where one did not arrive.
    async fn send_all(&self) -> bool {
        let mut sending = self.sending.lock().await;
        loop {
            let batch: Vec<_> = {
                let mut queue = self.lock();
                let length = self.settings.batch.min(queue.spans.len());
                queue.spans.drain(..length).collect()
            };
            if batch.is_empty() {
                return true;
            }
            match self.send(&batch).await {
                Ok(()) => {
                    let dropped = std::mem::take(&mut self.lock().dropped);
                    if std::mem::replace(&mut sending.failing, false) {
                        tracing::info!("traces arrive again");
                    }
                    if dropped > 0 {
                        tracing::warn!(spans = dropped, "traces were dropped");
                    }
                }
                Err(Failure { reason, passing }) => {
                    if !std::mem::replace(&mut sending.failing, true) {
                        tracing::warn!(reason, "traces do not arrive; answers are not concerned");
                    }
                    self.keep(batch, passing);
                    return false;
                }
            }
        }
    }

    /// Puts a batch that did not arrive back, if that may help and there is room.
    fn keep(&self, batch: Vec<Span>, passing: bool) {
        let mut queue = self.lock();
        let room = match passing {
            true => self.settings.queue.saturating_sub(queue.spans.len()),
            false => 0,
        };
        let lost = batch.len().saturating_sub(room);
        queue.dropped += lost as u64;
        for span in batch.into_iter().skip(lost).rev() {
            queue.spans.push_front(span);
        }
    }

    async fn send(&self, batch: &[Span]) -> Result<(), Failure> {
        let resource = self.settings.resource.iter();
        let export = Export {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: resource.map(|(k, v)| attribute(k, v.as_str())).collect(),
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: "onegen-server".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                    }),
                    spans: batch.to_vec(),
                }],
            }],
        };
        let request = self.http.post(self.settings.url.clone());
        let request = request
            .headers(self.settings.headers.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(export.encode_to_vec());
        let answered = request.send().await.map_err(|error| Failure {
            reason: format!("{:#}", anyhow::Error::from(error.without_url())),
            passing: true,
        })?;
        match answered.status() {
            status if status.is_success() => Ok(()),
            status => Err(Failure {
                reason: format!("the collector answers {status}"),
                // As the protocol has it.
                passing: matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
