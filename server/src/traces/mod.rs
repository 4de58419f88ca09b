//! OpenTelemetry traces: a span for each request for the model, and in it one for each phase of its turn,
//! with the times that the engine has measured. Sent as OTLP over HTTP.
//!
//! Names are those of the semantic conventions for generative AI. Where no collector is named, nothing
//! of this happens.

mod context;
mod exporter;
mod otlp;
mod request;
mod settings;

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use tracing::{Span, field};

use crate::app::App;
use crate::errors::ErrorCode;

use context::Parent;
use exporter::Exporter;
pub(crate) use request::{RequestTrace, TurnTrace};
use settings::Settings;
pub use settings::{TraceConfig, TraceConfigError};

/// Routes that ask the model, and what that is called.
const OPERATIONS: &[(&str, &str)] = &[
    ("/v1/chat/completions", "chat"),
    ("/v1/responses", "chat"),
    ("/v1/completions", "text_completion"),
    ("/v1/embeddings", "embeddings"),
];

/// Where traces go, if anywhere.
pub(crate) struct Traces {
    exporter: Arc<Exporter>,
}

impl Traces {
    /// `None` where no collector is named.
    ///
    /// # Errors
    /// One of OpenTelemetry's variables makes no sense.
    pub(crate) fn open(config: &TraceConfig) -> anyhow::Result<Option<Self>> {
        let settings = Settings::new(config, |name| std::env::var(name).ok())?;
        let exporter = settings.map(Exporter::new).transpose()?;
        Ok(exporter.map(|exporter| Self {
            exporter: Arc::new(exporter),
        }))
    }

    /// Sends traces for as long as the server serves.
    pub(crate) async fn export(&self) {
        self.exporter.run().await;
    }

    /// Sends what is left.
    pub(crate) async fn flush(&self) {
        self.exporter.flush().await;
    }

    /// Begins the span of a request, unless it is one that is not traced.
    fn begin(&self, request: &Request) -> Option<Arc<RequestTrace>> {
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let (_, operation) = OPERATIONS.iter().find(|(path, _)| *path == route)?;
        let parent = Parent::of(request.headers());
        let trace = parent.as_ref().map_or_else(rand::random, |p| p.trace);
        let sampler = self.exporter.settings().sampler;
        sampler.samples(trace, parent.as_ref()).then(|| {
            let trace = RequestTrace::new(self.exporter.clone(), trace, parent, operation);
            trace.set("http.request.method", request.method().as_str());
            trace.set("http.route", route);
            Arc::new(trace)
        })
    }
}

/// What is shown at the start.
impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.settings().fmt(f)
    }
}

/// Has a request's span around all that is done for it, to the end of its stream.
pub(crate) async fn trace(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let trace = app
        .traces
        .as_ref()
        .and_then(|traces| traces.begin(&request));
    let Some(trace) = trace else {
        return next.run(request).await;
    };
    Span::current().record("trace", field::display(trace.id()));
    let response = trace.clone().around(next.run(request)).await;
    trace.answered(
        response.status(),
        response.extensions().get().map(|ErrorCode(code)| *code),
    );
    if response.status().is_success() {
        trace.set("gen_ai.response.model", app.model.name.as_str());
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return response;
    }
    let (head, body) = response.into_parts();
    let body = body.into_data_stream().map(move |part| {
        let _lasts = &trace;
        part
    });
    Response::from_parts(head, Body::from_stream(body))
}
