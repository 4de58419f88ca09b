//! A collector of traces: what arrives at `/v1/traces`, read with nothing but protobuf's wire format and
//! the field numbers of opentelemetry-proto's trace.proto.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for none.
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 1 internal, 2 server.
    pub kind: u64,
    pub began: u64,
    pub ended: u64,
    pub attributes: Value,
    /// 0 unset, 1 ok, 2 error.
    pub status: u64,
    pub resource: Value,
}

#[derive(Default)]
struct Arrived {
    spans: Vec<Span>,
    headers: Vec<HeaderMap>,
    answers: Vec<StatusCode>,
}

/// Takes what is sent to it. Dropped, it is gone with the test.
#[derive(Clone)]
pub struct Collector {
    pub url: String,
    arrived: Arc<Mutex<Arrived>>,
}

impl Collector {
    /// Answers 200, but for the first requests, which get these.
    pub async fn start(answers: &[StatusCode]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let arrived = Arc::new(Mutex::new(Arrived {
            answers: answers.to_vec(),
            ..Arrived::default()
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
    State(arrived): State<Arc<Mutex<Arrived>>>,
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

/// A field's value by its wire type.
#[derive(Debug)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("bytes where a number should be"),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("a number where bytes should be"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self) -> String {
        self.bytes().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// All fields of a message, by their numbers.
fn fields(mut message: &[u8]) -> BTreeMap<u64, Vec<Wire<'_>>> {
    fn take<'a>(message: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = message.split_at(n);
        *message = rest;
        taken
    }
    fn varint(message: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = take(message, 1)[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }
    let mut fields: BTreeMap<u64, Vec<Wire<'_>>> = BTreeMap::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut message)),
            1 => Wire::Number(u64::from_le_bytes(
                take(&mut message, 8).try_into().unwrap(),
            )),
            2 => {
                let length = varint(&mut message) as usize;
                Wire::Bytes(take(&mut message, length))
            }
            5 => {
                let four: [u8; 4] = take(&mut message, 4).try_into().unwrap();
                Wire::Number(u32::from_le_bytes(four).into())
            }
            other => panic!("wire type {other}"),
        };
        fields.entry(tag >> 3).or_default().push(value);
    }
    fields
}

fn attributes(all: Option<&Vec<Wire<'_>>>) -> Value {
    let each = all.into_iter().flatten().map(|attribute| {
        let attribute = fields(attribute.bytes());
        (attribute[&1][0].text(), any(attribute[&2][0].bytes()))
    });
    Value::Object(each.collect::<Map<_, _>>())
}

fn any(message: &[u8]) -> Value {
    let found = fields(message);
    let Some((number, value)) = found.iter().next() else {
        return Value::Null;
    };
    let value = &value[0];
    match number {
        1 => value.text().into(),
        2 => (value.number() == 1).into(),
        3 => (value.number() as i64).into(),
        4 => f64::from_bits(value.number()).into(),
        5 => {
            let array = fields(value.bytes());
            let each = array.get(&1).into_iter().flatten();
            each.map(|one| any(one.bytes())).collect()
        }
        6 => attributes(fields(value.bytes()).get(&1)),
        other => panic!("a value of kind {other}"),
    }
}

fn spans(export: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in fields(export).values().flatten() {
        let of_resource = fields(of_resource.bytes());
        let resource = fields(of_resource[&1][0].bytes());
        let resource = attributes(resource.get(&1));
        for of_scope in &of_resource[&2] {
            for span in &fields(of_scope.bytes())[&2] {
                let span = fields(span.bytes());
                let hex = |n: u64| span.get(&n).map_or_else(String::new, |all| all[0].hex());
                let text = |n: u64| span.get(&n).map_or_else(String::new, |all| all[0].text());
                let number = |n: u64| span.get(&n).map_or(0, |all| all[0].number());
                let status = span.get(&15).map(|all| fields(all[0].bytes()));
                spans.push(Span {
                    trace: hex(1),
                    id: hex(2),
                    state: text(3),
                    parent: hex(4),
                    name: text(5),
                    kind: number(6),
                    began: number(7),
                    ended: number(8),
                    attributes: attributes(span.get(&9)),
                    status: status.map_or(0, |status| status.get(&3).map_or(0, |c| c[0].number())),
                    resource: resource.clone(),
                });
            }
        }
    }
    spans
}

/// A span for messages of failing tests.
pub fn shown(span: &Span) -> Value {
    json!({"name": span.name, "attributes": span.attributes, "status": span.status})
}
