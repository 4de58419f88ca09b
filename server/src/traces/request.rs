//! The spans of one request.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use onegen_engine::{
    ConversationId, PhaseTime, RetrievalReceipt, Role, SamplingParams, Timeline, TurnPhase,
    TurnSummary,
};
use serde_json::{Value, json};

use super::context::{Parent, SpanId, TraceId};
use super::exporter::Exporter;
use super::otlp::{Code, Kind, Span, Status, attribute};

/// `error.type` of what was given up before its end.
const CANCELLED: &str = "cancelled";

/// The parent's bit of a span's flags is known, and the parent is in another process.
const REMOTE_PARENT: u32 = 0x300;
/// The parent's bit is known, and the parent is here.
const LOCAL_PARENT: u32 = 0x100;
const SAMPLED: u32 = 1;

tokio::task_local! {
    /// Of the request that the task answers.
    static CURRENT: Arc<RequestTrace>;
}

/// A request's span, which ends when the last who holds it has dropped it.
pub(crate) struct RequestTrace {
    exporter: Arc<Exporter>,
    trace: TraceId,
    span: SpanId,
    parent: Option<Parent>,
    operation: &'static str,
    began: Instant,
    /// At `began`, in nanoseconds since 1970: so all times of a request fit together, whatever is done
    /// to the system's clock meanwhile.
    began_nanos: u64,
    told: Mutex<Told>,
}

/// What becomes known of a request.
#[derive(Default)]
struct Told {
    attributes: BTreeMap<&'static str, Value>,
    /// One of each turn.
    finish_reasons: Vec<&'static str>,
    /// Texts, where they are asked for.
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    input_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    answered: bool,
    failed: bool,
}

impl RequestTrace {
    pub(super) fn new(
        exporter: Arc<Exporter>,
        trace: TraceId,
        parent: Option<Parent>,
        operation: &'static str,
    ) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            exporter,
            trace,
            span: rand::random(),
            parent,
            operation,
            began: Instant::now(),
            began_nanos: since_1970.unwrap_or_default().as_nanos() as u64,
            told: Mutex::default(),
        }
    }

    /// Of the request that this task answers, if it is traced.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Answers a request whose span this is.
    pub(super) async fn around<T>(self: Arc<Self>, answering: impl Future<Output = T>) -> T {
        CURRENT.scope(self, answering).await
    }

    /// The trace's id in hexadecimal digits.
    pub(super) fn id(&self) -> String {
        self.trace.iter().fold(String::new(), |mut id, byte| {
            // Text can always be put behind text.
            let _ = write!(id, "{byte:02x}");
            id
        })
    }

    /// Sets an attribute; the last value counts.
    pub(crate) fn set(&self, name: &'static str, value: impl Into<Value>) {
        self.told().attributes.insert(name, value.into());
    }

    /// Adds tokens that were read.
    pub(crate) fn read(&self, tokens: usize) {
        self.told().input_tokens += tokens;
    }

    /// The response begins.
    pub(super) fn answered(&self, status: StatusCode, error: Option<&'static str>) {
        self.set("http.response.status_code", status.as_u16());
        let mut told = self.told();
        told.answered = true;
        if let Some(error) = error {
            told.attributes.entry("error.type").or_insert(error.into());
            // What is the client's fault is no failure of the server's.
            told.failed |= status.is_server_error();
        }
    }

    fn fail(&self, error: &'static str) {
        self.set("error.type", error);
        self.told().failed = true;
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        self.began_nanos.saturating_add(since.as_nanos() as u64)
    }

    /// A span within the request's.
    fn inner(&self, name: &str, began: Instant, ended: Instant) -> Span {
        Span {
            trace_id: self.trace.to_vec(),
            span_id: rand::random::<SpanId>().to_vec(),
            trace_state: self
                .parent
                .as_ref()
                .map_or_else(String::new, |p| p.state.clone()),
            parent_span_id: self.span.to_vec(),
            name: name.to_owned(),
            kind: Kind::Internal.into(),
            start_time_unix_nano: self.nanos(began),
            end_time_unix_nano: self.nanos(ended),
            attributes: Vec::new(),
            status: None,
            flags: LOCAL_PARENT | SAMPLED,
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Nothing in here panics halfway through a change.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if !self.told().answered && !self.told().failed {
            self.fail(CANCELLED);
        }
        let told = std::mem::take(&mut *self.told());
        let mut attributes = told.attributes;
        let name = match attributes
            .get("gen_ai.request.model")
            .and_then(Value::as_str)
        {
            Some(model) => format!("{} {model}", self.operation),
            None => self.operation.to_owned(),
        };
        attributes.insert("gen_ai.operation.name", self.operation.into());
        attributes.insert("gen_ai.provider.name", "onegen".into());
        if told.input_tokens > 0 {
            attributes.insert("gen_ai.usage.input_tokens", told.input_tokens.into());
        }
        if !told.finish_reasons.is_empty() {
            let cached = "gen_ai.usage.cache_read.input_tokens";
            attributes.insert(cached, told.cached_tokens.into());
            attributes.insert("gen_ai.usage.output_tokens", told.output_tokens.into());
            let reasons = told.finish_reasons.into();
            attributes.insert("gen_ai.response.finish_reasons", reasons);
        }
        for (name, messages) in [
            ("gen_ai.input.messages", told.inputs),
            ("gen_ai.output.messages", told.outputs),
        ] {
            if !messages.is_empty() {
                attributes.insert(name, messages.into());
            }
        }
        let mut span = Span {
            span_id: self.span.to_vec(),
            parent_span_id: Vec::new(),
            kind: Kind::Server.into(),
            attributes: attributes
                .into_iter()
                .map(|(k, v)| attribute(k, v))
                .collect(),
            status: told.failed.then(failed),
            flags: REMOTE_PARENT | SAMPLED,
            ..self.inner(&name, self.began, Instant::now())
        };
        if let Some(parent) = &self.parent {
            span.parent_span_id = parent.span.to_vec();
        }
        self.exporter.push([span]);
    }
}

fn failed() -> Status {
    Status {
        code: Code::Error.into(),
    }
}

/// The spans of a turn's phases. Dropped before its end, the turn was cancelled.
pub(crate) struct TurnTrace {
    request: Arc<RequestTrace>,
    timeline: Timeline,
    collection: String,
    /// What each retrieval found.
    documents: Vec<Value>,
    /// `error.type`, until the turn has come to its end.
    error: Option<&'static str>,
}

impl TurnTrace {
    /// Of a turn that begins, if the request that it belongs to is traced.
    pub(crate) fn begin(
        timeline: &Timeline,
        collection: &str,
        sampling: &SamplingParams,
    ) -> Option<Self> {
        let request = RequestTrace::current()?;
        if let Some(most) = sampling.max_tokens {
            request.set("gen_ai.request.max_tokens", most);
        }
        request.set("gen_ai.request.temperature", sampling.temperature);
        request.set("gen_ai.request.top_p", sampling.top_p);
        Some(Self {
            request,
            timeline: timeline.clone(),
            collection: collection.to_owned(),
            documents: Vec::new(),
            error: Some(CANCELLED),
        })
    }

    /// The turn is one of a conversation.
    pub(crate) fn converses(&self, conversation: &ConversationId) {
        let id = conversation.as_str();
        self.request.set("gen_ai.conversation.id", id);
    }

    /// The turn goes on from a text, which is noted only where texts are asked for.
    pub(crate) fn reads(&self, role: Role, text: &str) {
        if self.with_text() {
            let role = match role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            self.request.told().inputs.push(said(role, text));
        }
    }

    pub(crate) fn retrieved(&mut self, receipt: &RetrievalReceipt) {
        let with_text = self.with_text();
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
        let mut told = self.request.told();
        if self.with_text() {
            let mut message = said("assistant", text);
            message["finish_reason"] = reason.into();
            told.outputs.push(message);
        }
        told.finish_reasons.push(reason);
        // Passages are read like the prompt.
        let usage = &summary.usage;
        told.input_tokens += usage.prompt_tokens + usage.passage_tokens;
        told.cached_tokens += usage.cached_tokens;
        told.output_tokens += usage.completion_tokens;
    }

    pub(crate) fn failed(&mut self, error: &'static str) {
        self.error = Some(error);
    }

    fn with_text(&self) -> bool {
        self.request.exporter.settings().text
    }
}

impl Drop for TurnTrace {
    fn drop(&mut self) {
        if let Some(error) = self.error {
            self.request.fail(error);
        }
        let now = Instant::now();
        let phases = self.timeline.phases();
        let mut documents = self.documents.drain(..);
        let spans = phases.iter().enumerate().map(|(at, phase)| {
            let PhaseTime { began, ended, .. } = *phase;
            let name = name(phase.phase);
            let mut span = self.request.inner(name, began, ended.unwrap_or(now));
            if phase.phase == TurnPhase::Retrieval {
                let mut told = json!({
                    "gen_ai.operation.name": "retrieval",
                    "gen_ai.data_source.id": self.collection,
                });
                let found = match phases.get(at + 1).map(|next| next.phase) {
                    Some(TurnPhase::Splice) => documents.next(),
                    Some(_) => Some(json!([])),
                    None => None,
                };
                if let Some(found) = found {
                    told["gen_ai.retrieval.documents"] = found;
                }
                let told = told.as_object().into_iter().flatten();
                span.attributes = told.map(|(k, v)| attribute(k, v.clone())).collect();
            }
            if let (Some(error), None) = (self.error, phases.get(at + 1)) {
                span.status = Some(failed());
                span.attributes.push(attribute("error.type", error));
            }
            span
        });
        self.request.exporter.push(spans);
    }
}

/// A message as the conventions have it.
fn said(role: &str, text: &str) -> Value {
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
