//! The spans of one request.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::http::StatusCode;
use onegen_engine::{
    ConversationId, PhaseTime, RetrievalReceipt, Role, SamplingParams, Timeline, TurnPhase,
    TurnSummary,
};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

/// The `error.type` of requests and turns that were cancelled.
const CANCELLED: &str = "cancelled";

tokio::task_local! {
    /// The trace of the request that the current task answers.
    static CURRENT: Arc<RequestTrace>;
}

/// A request's span, which ends when its last holder is dropped.
pub(crate) struct RequestTrace {
    tracer: SdkTracer,
    span: Span,
    /// The context in which spans within it begin.
    context: Context,
    operation: &'static str,
    began: Instant,
    /// The system time at `began`. All times of a request are computed from it, so they are
    /// consistent even if the system's clock is changed meanwhile.
    began_at: SystemTime,
    with_text: bool,
    record: Mutex<RequestRecord>,
}

/// What is recorded of a request until its span ends.
#[derive(Default)]
struct RequestRecord {
    attributes: BTreeMap<&'static str, Value>,
    /// The finish reason of each turn.
    finish_reasons: Vec<&'static str>,
    /// Input texts, if texts are to be traced.
    inputs: Vec<Json>,
    outputs: Vec<Json>,
    input_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    answered: bool,
    failed: bool,
}

impl RequestTrace {
    /// Returns `None` if the sampler does not select the request.
    pub(super) fn begin(
        tracer: &SdkTracer,
        parent: &Context,
        operation: &'static str,
        with_text: bool,
    ) -> Option<Self> {
        let (began, began_at) = (Instant::now(), SystemTime::now());
        let span = tracer.span_builder(operation).with_kind(SpanKind::Server);
        let span = span
            .with_start_time(began_at)
            .start_with_context(tracer, parent);
        span.is_recording().then(|| Self {
            tracer: tracer.clone(),
            context: Context::new().with_remote_span_context(span.span_context().clone()),
            span,
            operation,
            began,
            began_at,
            with_text,
            record: Mutex::default(),
        })
    }

    /// The trace of the request that this task answers, if it is traced.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `answering` with this as the current trace.
    pub(super) async fn around<T>(self: Arc<Self>, answering: impl Future<Output = T>) -> T {
        CURRENT.scope(self, answering).await
    }

    /// The trace's id in hexadecimal digits.
    pub(super) fn id(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    /// Sets an attribute. A later value replaces an earlier one.
    pub(crate) fn set(&self, name: &'static str, value: impl Into<Value>) {
        self.record.lock().attributes.insert(name, value.into());
    }

    /// Adds to the number of input tokens.
    pub(crate) fn read(&self, tokens: usize) {
        self.record.lock().input_tokens += tokens;
    }

    /// Records that the response begins.
    pub(super) fn answered(&self, status: StatusCode, error: Option<&'static str>) {
        self.set("http.response.status_code", i64::from(status.as_u16()));
        let mut record = self.record.lock();
        record.answered = true;
        if let Some(error) = error {
            record
                .attributes
                .entry("error.type")
                .or_insert(error.into());
            // An error of the client is not a failure of the server.
            record.failed |= status.is_server_error();
        }
    }

    fn fail(&self, error: &'static str) {
        self.set("error.type", error);
        self.record.lock().failed = true;
    }

    fn time(&self, at: Instant) -> SystemTime {
        self.began_at + at.saturating_duration_since(self.began)
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if !self.record.lock().answered && !self.record.lock().failed {
            self.fail(CANCELLED);
        }
        let record = std::mem::take(&mut *self.record.lock());
        let mut attributes = record.attributes;
        if let Some(model) = attributes.get("gen_ai.request.model") {
            let name = format!("{} {}", self.operation, model.as_str());
            self.span.update_name(name);
        }
        attributes.insert("gen_ai.operation.name", self.operation.into());
        attributes.insert("gen_ai.provider.name", "onegen".into());
        if record.input_tokens > 0 {
            let tokens = count(record.input_tokens);
            attributes.insert("gen_ai.usage.input_tokens", tokens);
        }
        if !record.finish_reasons.is_empty() {
            let cached = count(record.cached_tokens);
            attributes.insert("gen_ai.usage.cache_read.input_tokens", cached);
            let tokens = count(record.output_tokens);
            attributes.insert("gen_ai.usage.output_tokens", tokens);
            let reasons = record.finish_reasons.into_iter().map(StringValue::from);
            let reasons = Value::Array(Array::String(reasons.collect()));
            attributes.insert("gen_ai.response.finish_reasons", reasons);
        }
        for (name, messages) in [
            ("gen_ai.input.messages", record.inputs),
            ("gen_ai.output.messages", record.outputs),
        ] {
            if !messages.is_empty() {
                attributes.insert(name, structured(messages.into()));
            }
        }
        let attributes = attributes.into_iter().map(|(k, v)| KeyValue::new(k, v));
        self.span.set_attributes(attributes);
        if record.failed {
            self.span.set_status(Status::error(""));
        }
        self.span.end_with_timestamp(self.time(Instant::now()));
    }
}

/// A structured value as JSON. The conventions say so for SDKs whose attributes cannot be
/// structured.
fn structured(value: Json) -> Value {
    value.to_string().into()
}

fn count(number: usize) -> Value {
    Value::I64(number as i64)
}

/// The spans of a turn's phases. If it is dropped before the turn's end, the turn was cancelled.
pub(crate) struct TurnTrace {
    request: Arc<RequestTrace>,
    timeline: Timeline,
    collection: String,
    /// The documents that each retrieval found.
    documents: Vec<Json>,
    /// `error.type`, until the turn has come to its end.
    error: Option<&'static str>,
}

impl TurnTrace {
    /// The trace of a turn that begins, if the request that it belongs to is traced.
    pub(crate) fn begin(
        timeline: &Timeline,
        collection: &str,
        sampling: &SamplingParams,
    ) -> Option<Self> {
        let trace = Self::within(RequestTrace::current()?, timeline, collection);
        let request = &trace.request;
        if let Some(most) = sampling.max_tokens {
            request.set("gen_ai.request.max_tokens", count(most));
        }
        request.set(
            "gen_ai.request.temperature",
            f64::from(sampling.temperature),
        );
        request.set("gen_ai.request.top_p", f64::from(sampling.top_p));
        Some(trace)
    }

    /// The trace of a turn that begins as a part of this request.
    pub(crate) fn within(
        request: Arc<RequestTrace>,
        timeline: &Timeline,
        collection: &str,
    ) -> Self {
        Self {
            request,
            timeline: timeline.clone(),
            collection: collection.to_owned(),
            documents: Vec::new(),
            error: Some(CANCELLED),
        }
    }

    /// Records the turn's conversation.
    pub(crate) fn converses(&self, conversation: &ConversationId) {
        let id = conversation.to_string();
        self.request.set("gen_ai.conversation.id", id);
    }

    /// Records a text that the turn reads, if texts are to be traced.
    pub(crate) fn reads(&self, role: Role, text: &str) {
        if self.request.with_text {
            let role = match role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            self.request.record.lock().inputs.push(said(role, text));
        }
    }

    pub(crate) fn retrieved(&mut self, receipt: &RetrievalReceipt) {
        let with_text = self.request.with_text;
        let documents = receipt.passages.iter().map(|passage| {
            let mut document = json!({"id": passage.id, "score": passage.score});
            if with_text {
                document["content"] = passage.text.as_str().into();
            }
            document
        });
        self.documents.push(documents.collect());
    }

    pub(crate) fn finished(&mut self, summary: &TurnSummary, text: &str) {
        self.error = None;
        let reason = summary.finish_reason.as_str();
        let mut record = self.request.record.lock();
        if self.request.with_text {
            let mut message = said("assistant", text);
            message["finish_reason"] = reason.into();
            record.outputs.push(message);
        }
        record.finish_reasons.push(reason);
        // Tokens of passages count as input, like those of the prompt.
        let usage = &summary.usage;
        record.input_tokens += usage.prompt_tokens + usage.passage_tokens;
        record.cached_tokens += usage.cached_tokens;
        record.output_tokens += usage.completion_tokens;
    }

    pub(crate) fn failed(&mut self, error: &'static str) {
        self.error = Some(error);
    }
}

impl Drop for TurnTrace {
    fn drop(&mut self) {
        if let Some(error) = self.error {
            self.request.fail(error);
        }
        let phases = self.timeline.phases();
        let mut documents = self.documents.drain(..);
        for (at, phase) in phases.iter().enumerate() {
            let PhaseTime { began, ended, .. } = *phase;
            let next = phases.get(at + 1).map(|next| next.phase);
            let RequestTrace {
                tracer, context, ..
            } = &*self.request;
            let mut span = tracer
                .span_builder(name(phase.phase))
                .with_start_time(self.request.time(began))
                .start_with_context(tracer, context);
            if phase.phase == TurnPhase::Retrieval {
                span.set_attribute(KeyValue::new("gen_ai.operation.name", "retrieval"));
                let collection = self.collection.clone();
                span.set_attribute(KeyValue::new("gen_ai.data_source.id", collection));
                let found = match next {
                    Some(TurnPhase::Splice) => documents.next(),
                    Some(_) => Some(json!([])),
                    None => None,
                };
                if let Some(found) = found {
                    let found = structured(found);
                    span.set_attribute(KeyValue::new("gen_ai.retrieval.documents", found));
                }
            }
            if let (Some(error), None) = (self.error, next) {
                span.set_status(Status::error(""));
                span.set_attribute(KeyValue::new("error.type", error));
            }
            let ended = ended.unwrap_or_else(Instant::now);
            span.end_with_timestamp(self.request.time(ended));
        }
    }
}

/// A message in the conventions' format.
fn said(role: &str, text: &str) -> Json {
    json!({"role": role, "parts": [{"type": "text", "content": text}]})
}

fn name(phase: TurnPhase) -> &'static str {
    match phase {
        TurnPhase::Queue => "queue",
        TurnPhase::Restore => "restore",
        TurnPhase::Prefill => "prefill",
        TurnPhase::Decode => "decode",
        TurnPhase::Retrieval => "retrieval",
        TurnPhase::Splice => "splice",
    }
}
