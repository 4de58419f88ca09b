//! A collector of traces: what arrives at `/v1/traces`.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub)]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// A received span.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for none.
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 1 internal, 2 server.
    pub kind: i32,
    pub began: u64,
    pub ended: u64,
    pub attributes: Value,
    /// 0 unset, 1 ok, 2 error.
    pub status: i32,
    pub resource: Value,
}

#[derive(Default)]
struct ReceivedTraces {
    spans: Vec<Span>,
    headers: Vec<HeaderMap>,
    answers: Vec<StatusCode>,
}

/// Receives spans until the end of the test.
#[derive(Clone)]
pub struct Collector {
    pub url: String,
    arrived: Arc<Mutex<ReceivedTraces>>,
}

impl Collector {
    /// Answers the first requests with `answers`, and all others with 200.
    pub async fn start(answers: &[StatusCode]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let arrived = Arc::new(Mutex::new(ReceivedTraces {
            answers: answers.to_vec(),
            ..ReceivedTraces::default()
        }));
        let routes = Router::new().route("/v1/traces", post(take));
        let routes = routes.with_state(arrived.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, arrived }
    }

    pub fn spans(&self) -> Vec<Span> {
        self.arrived.lock().unwrap().spans.clone()
    }

    pub fn headers(&self) -> Vec<HeaderMap> {
        self.arrived.lock().unwrap().headers.clone()
    }
}

async fn take(
    State(arrived): State<Arc<Mutex<ReceivedTraces>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let mut arrived = arrived.lock().unwrap();
    arrived.headers.push(headers);
    if !arrived.answers.is_empty() {
        let answer = arrived.answers.remove(0);
        if !answer.is_success() {
            return answer;
        }
    }
    arrived.spans.extend(spans(&body));
    StatusCode::OK
}

fn spans(export: &[u8]) -> Vec<Span> {
    let export = ExportTraceServiceRequest::decode(export).unwrap();
    let mut spans = Vec::new();
    for of_resource in export.resource_spans {
        let resource = attributes(of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            spans.push(Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state,
                name: span.name,
                kind: span.kind,
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                status: span.status.map_or(0, |status| status.code),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(all: Vec<KeyValue>) -> Value {
    let each = all.into_iter().map(|one| (one.key, any(one.value)));
    Value::Object(each.collect::<Map<_, _>>())
}

fn any(value: Option<AnyValue>) -> Value {
    use any_value::Value as Any;
    match value.and_then(|value| value.value).unwrap() {
        Any::StringValue(text) => text.into(),
        Any::BoolValue(truth) => truth.into(),
        Any::IntValue(number) => number.into(),
        Any::DoubleValue(number) => number.into(),
        Any::ArrayValue(array) => array.values.into_iter().map(|one| any(Some(one))).collect(),
        other => panic!("{other:?}"),
    }
}

/// The parts of a span that the message of a failing test prints.
pub fn summary(span: &Span) -> Value {
    json!({"name": span.name, "attributes": span.attributes, "status": span.status})
}
