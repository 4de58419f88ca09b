//! Thousands of half-valid requests to every route. Whatever is asked, the answer is no fault of the server, and
//! none of its threads panics.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::common::process::{End, Process, command};
use crate::common::{Client, Files, conversation, envelope, question, with};

const REQUESTS: usize = 4_000;
/// Requests under way at once, fewer than the server takes.
const AT_ONCE: usize = 16;
/// How often a value is not what its schema says.
const ODD: f64 = 0.04;
/// How deep values are nested that the schema lets be nested.
const DEPTH: usize = 6;

/// A method of a route in the OpenAPI document.
struct Operation<'d> {
    method: Method,
    path: &'d str,
    parameters: &'d Value,
    body: &'d Value,
}

/// Makes requests of the document's schemas.
struct Generator<'d> {
    document: &'d Value,
    /// Names of things that are there.
    names: Vec<String>,
    rng: StdRng,
}

struct Request {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    headers: Vec<(&'static str, &'static str)>,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of_path = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| Operation {
            method: method.to_uppercase().parse().unwrap(),
            path,
            parameters: &operation["parameters"],
            body: &operation["requestBody"]["content"]["application/json"]["schema"],
        })
    });
    of_path.collect()
}

impl Generator<'_> {
    fn request(&mut self, operation: &Operation<'_>) -> Request {
        let mut path = operation.path.to_owned();
        let mut query = Vec::new();
        let mut headers = Vec::new();
        for parameter in operation.parameters.as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            match parameter["in"].as_str().unwrap() {
                "path" => path = path.replace(&format!("{{{name}}}"), &self.name()),
                "query" if self.rng.random_bool(0.5) => {
                    let value = match self.value(&parameter["schema"], DEPTH) {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    query.push(format!("{name}={}", escaped(&value)));
                }
                _ => {}
            }
        }
        if self.rng.random_bool(0.1) {
            let value = ["a", "b", "../..", ""].choose(&mut self.rng).unwrap();
            headers.push(("idempotency-key", *value));
        }
        if self.rng.random_bool(0.02) {
            let value = ["gzip", "br", "zstd, gzip"].choose(&mut self.rng).unwrap();
            headers.push(("content-encoding", *value));
        }
        let body = operation.body.is_object().then(|| {
            let value = self.value(operation.body, DEPTH);
            let mut body = value.to_string().into_bytes();
            if self.rng.random_bool(0.03) {
                let at = self.rng.random_range(0..body.len());
                match self.rng.random_range(0..3) {
                    0 => body.truncate(at),
                    1 => body[at] ^= 1 << self.rng.random_range(0..8),
                    _ => body.insert(at, *b"\\\"{}[],:\0\xff".choose(&mut self.rng).unwrap()),
                }
            }
            body
        });
        headers.push(("content-type", "application/json"));
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        Request {
            method: operation.method.clone(),
            path,
            body,
            headers,
        }
    }

    /// A name for a path.
    fn name(&mut self) -> String {
        if self.rng.random_bool(0.8) {
            return escaped(self.names.choose(&mut self.rng).unwrap());
        }
        let odd = ["", "..", "%", "%00", "%ff%fe", "a%2Fb", "\u{1F600}", "'\"<"];
        let odd = odd.choose(&mut self.rng).unwrap();
        match self.rng.random_range(0..3) {
            0 => "x".repeat(self.rng.random_range(1..3000)),
            _ => (*odd).to_owned(),
        }
    }

    /// A value that a schema allows, or an odd one.
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if depth == 0 || self.rng.random_bool(ODD) {
            return self.odd();
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let schema = self.document.pointer(&reference[1..]).unwrap();
            return self.value(schema, depth);
        }
        if self.rng.random_bool(0.3)
            && let Some(example) = schema.get("example").or(schema.get("default"))
        {
            return example.clone();
        }
        for alternatives in ["oneOf", "anyOf", "enum"] {
            let Some(all) = schema[alternatives].as_array() else {
                continue;
            };
            let one = all.choose(&mut self.rng).unwrap().clone();
            return match alternatives {
                "enum" => one,
                _ => self.value(&one, depth),
            };
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let mut whole = Map::new();
            for part in parts {
                match self.value(part, depth) {
                    Value::Object(fields) => whole.extend(fields),
                    other => return other,
                }
            }
            return whole.into();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.choose(&mut self.rng).unwrap(),
            kind => kind,
        };
        match kind.as_str() {
            Some("object") => self.object(schema, depth),
            Some("array") => {
                let len = self.rng.random_range(0..4);
                (0..len)
                    .map(|_| self.value(&schema["items"], depth - 1))
                    .collect()
            }
            Some("string") => self.text().into(),
            Some("integer") => self.rng.random_range(0..6).into(),
            Some("number") => self.rng.random_range(0.0..2.0).into(),
            Some("boolean") => self.rng.random::<bool>().into(),
            Some("null") => Value::Null,
            _ => self.odd(),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let share = if required.contains(&json!(name)) {
                0.98
            } else {
                0.12
            };
            if self.rng.random_bool(share) {
                object.insert(name.clone(), self.value(field, depth - 1));
            }
        }
        if self.rng.random_bool(ODD) {
            object.insert(self.text(), self.odd());
        }
        object.into()
    }

    fn text(&mut self) -> String {
        let texts = [
            "onegen",
            "default",
            "What is the capital of Peru?",
            "user",
            "",
            " ",
            "a",
            "0",
            "-1",
            "[RQ] <|im_end|> {{ x }}",
            "\u{0}\u{7}",
            "\u{FEFF}e\u{301}\u{1F469}\u{200D}\u{1F680}",
            "(((",
            "(?=a)(a|a)*$",
            "start: \"a\" start",
            "null",
            "NaN",
            "1e999",
            "asc",
            "desc",
        ];
        match self.rng.random_range(0..6) {
            0 => self.names.choose(&mut self.rng).unwrap().clone(),
            1 => "long ".repeat(self.rng.random_range(0..400)),
            _ => (*texts.choose(&mut self.rng).unwrap()).to_owned(),
        }
    }

    /// A value of any kind.
    fn odd(&mut self) -> Value {
        match self.rng.random_range(0..12) {
            0 => Value::Null,
            1 => true.into(),
            2 => (-1).into(),
            3 => u64::MAX.into(),
            4 => i64::MIN.into(),
            5 => 1e300.into(),
            6 => (-0.5).into(),
            7 => json!([]),
            8 => json!({}),
            9 => (0..200).fold(json!("deep"), |inner, _| json!([inner])),
            10 => json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "not": {}}),
            _ => self.text().into(),
        }
    }
}

/// A text as a part of a path or query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = text.bytes();
    bytes
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// Sends a request and checks what comes back. Returns its status.
async fn send(client: &Client, request: Request) -> Option<u16> {
    let Request {
        method,
        path,
        body,
        headers,
    } = request;
    let told = body.as_deref().map(String::from_utf8_lossy);
    let told = format!("{method} {path} {headers:?} {}", told.unwrap_or_default());
    let mut sent = client
        .http
        .request(method, format!("{}{path}", client.url))
        .timeout(Duration::from_secs(60));
    for (name, value) in headers {
        sent = sent.header(name, value);
    }
    if let Some(body) = body {
        sent = sent.body(body);
    }
    let response = match sent.send().await {
        Ok(response) => response,
        // A client's own library refuses some addresses.
        Err(error) if error.is_builder() => return None,
        Err(error) => panic!("{told}: {error:?}"),
    };
    let status = response.status();
    let is_json = response
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind == "application/json");
    let text = response.text().await;
    let text = text.unwrap_or_else(|error| panic!("{told}: {error:?}"));
    assert!(!status.is_server_error(), "{told}: {status} {text}");
    if status.is_client_error() {
        assert!(is_json, "{told}: {status} {text}");
        let error = envelope(serde_json::from_str(&text).unwrap());
        assert!(!error["message"].as_str().unwrap().is_empty(), "{told}");
    }
    Some(status.as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_however_odd_is_answered_by_a_fault_of_the_server() {
    let files = Files::new();
    let errors = files.dir.path().join("errors");
    let mut command = command(&files, &files.data_dir());
    command.args(["--max-tokens", "3", "--request-timeout", "30"]);
    command.stderr(fs::File::create(&errors).unwrap());
    let process = Process::spawn(command);
    let client = &process.client;
    let document = client.get_json("/openapi.json").await;
    let operations = operations(&document);

    let answer = client
        .complete(&with(question("Hello!"), json!({"max_tokens": 2})))
        .await;
    let body = json!({"model": "onegen", "input": "Hello!", "max_output_tokens": 2});
    let response = client.done("POST", "/v1/responses", body).await;
    let mut names: Vec<String> = [
        "onegen",
        "default",
        "country-peru",
        "country/chile",
        "never",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(conversation(&answer).to_owned());
    names.push(response["id"].as_str().unwrap().to_owned());
    let items = format!("/v1/conversations/{}/items", conversation(&answer));
    let items = client.get_json(&items).await;
    names.push(items["first_id"].as_str().unwrap().to_owned());

    let seed = 12;
    println!("seed {seed}");
    let mut generator = Generator {
        document: &document,
        names,
        rng: StdRng::seed_from_u64(seed),
    };
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let operation = operations.iter().choose(&mut generator.rng).unwrap();
            generator.request(operation)
        })
        .collect();
    let answers = iter(requests.into_iter().map(|request| send(client, request)));
    let statuses: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    let share = |wanted: fn(&u16) -> bool| statuses.iter().flatten().filter(|s| wanted(s)).count();
    let (taken, refused) = (share(|&s| s < 300), share(|&s| s >= 400));
    println!("{taken} were answered, {refused} refused");
    // Requests that are all refused would not get far.
    assert!(taken > REQUESTS / 8, "{taken} were answered");
    client.complete(&question("Hello!")).await;
    process.end(End::Terminated);
    let errors = fs::read_to_string(&errors).unwrap();
    assert!(!errors.contains("panicked"), "{errors}");
}
