//! OpenTelemetry traces: a span for each request for the model, and in it one for each phase of its turn,
//! with the times that the engine has measured. OpenTelemetry's SDK samples, batches and sends them.
//!
//! Names are those of the semantic conventions for generative AI. If no collector is configured, there
//! are no traces.

mod request;
mod sender;

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::{Span, field};

use crate::config::{TraceConfig, endpoint};
use crate::wire::errors::ErrorCode;
use crate::wire::until_sent::until_sent;

pub(crate) use request::{RequestTrace, TurnTrace};

/// The routes that use the model, and the names of their operations.
const OPERATIONS: &[(&str, &str)] = &[
    ("/v1/chat/completions", "chat"),
    ("/v1/responses", "chat"),
    ("/v1/completions", "text_completion"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/entities/link", "entity_linking"),
];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The exporter of traces.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Whether traces contain prompts, answers and passages.
    with_text: bool,
    /// The name of the served model.
    model: String,
    description: String,
}

impl Traces {
    /// Returns `None` if no collector is configured.
    ///
    /// # Errors
    /// Traces cannot be sent to the configured address.
    pub(crate) fn open(config: &TraceConfig, model: &str) -> anyhow::Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(url) = endpoint(config, variable)? else {
            return Ok(None);
        };
        let sender = sender::Sender::new(variable).context("traces cannot be sent")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_endpoint(url.as_str())
            .build()
            .context("traces cannot be sent")?;
        let mut resource = Resource::builder_empty()
            .with_service_name("onegen")
            .with_attribute(KeyValue::new("service.version", VERSION))
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_detector(Box::new(EnvResourceDetector::new()));
        if let Some(name) = variable("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
            resource = resource.with_service_name(name);
        }
        let resource = resource.build();
        let service = resource.get(&"service.name".into());
        let service = service.map(|name| name.to_string()).unwrap_or_default();
        let text = if config.trace_text {
            ", with prompts, answers and passages"
        } else {
            ""
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        let scope = InstrumentationScope::builder("onegen-server").with_version(VERSION);
        Ok(Some(Self {
            tracer: provider.tracer_with_scope(scope.build()),
            provider,
            with_text: config.trace_text,
            model: model.to_owned(),
            description: format!("traces go to {url} as {service}{text}"),
        }))
    }

    /// Sends the remaining traces, as many as is possible within a few seconds.
    pub(crate) async fn flush(&self) {
        let provider = self.provider.clone();
        match tokio::task::spawn_blocking(move || provider.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces did not arrive"),
            Err(error) => tracing::error!(%error, "sending the last traces failed"),
        }
    }

    /// Begins the span of a request, unless it is one that is not traced.
    fn begin(&self, request: &Request) -> Option<Arc<RequestTrace>> {
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let (_, operation) = OPERATIONS.iter().find(|(path, _)| *path == route)?;
        let headers = HeaderExtractor(request.headers());
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let trace = RequestTrace::begin(&self.tracer, &parent, operation, self.with_text)?;
        trace.set("http.request.method", request.method().to_string());
        trace.set("http.route", route.to_owned());
        Some(Arc::new(trace))
    }
}

/// The text that is printed at the start.
impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Puts a request's span around everything that is done for it, to the end of its stream.
pub(crate) async fn trace(
    State(traces): State<Arc<Traces>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(trace) = traces.begin(&request) else {
        return next.run(request).await;
    };
    Span::current().record("trace", field::display(trace.id()));
    let response = trace.clone().around(next.run(request)).await;
    trace.answered(
        response.status(),
        response.extensions().get().map(|ErrorCode(code)| *code),
    );
    if response.status().is_success() {
        trace.set("gen_ai.response.model", traces.model.clone());
    }
    until_sent(response, trace)
}
