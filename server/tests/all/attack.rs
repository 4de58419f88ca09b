//! What somebody does who means harm, or whose program has gone mad: random requests on every route, hundreds of
//! requests at once, and streams that break.
//!
//! `ONEGEN_REQUESTS` sets the number of random requests, for more than CI sends, and `ONEGEN_SEED` their seed.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, Files, Server, chunks, conversation, envelope, question, with};

/// A route as the OpenAPI document has it.
struct Route {
    method: Method,
    path: String,
}

async fn routes(client: &Client) -> Vec<Route> {
    let document = client.get_json("/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.filter_map(move |method| {
            let method = method.to_uppercase().parse().ok()?;
            let path = path.clone();
            Some(Route { method, path })
        })
    });
    all.collect()
}

/// A body that the route takes, as far as one is known.
fn valid_body(path: &str) -> Value {
    let message = json!({"role": "user", "content": "Hello!"});
    match path {
        "/v1/chat/completions" => json!({
            "model": "onegen", "messages": [{"role": "system", "content": "Be short."}, message],
            "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 7, "n": 1, "stream": false,
            "logprobs": true, "top_logprobs": 2, "logit_bias": {"5": 1}, "user": "me",
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
                "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}},
            "retrieval": {"enabled": true, "max_retrievals": 2, "min_score": 0.1, "filter":
                {"type": "eq", "key": "a", "value": 1}},
        }),
        "/v1/responses" | "/v1/responses/input_tokens" => json!({
            "model": "onegen", "input": [message], "max_output_tokens": 4, "instructions": "Be short.",
            "tools": [{"type": "file_search", "vector_store_ids": ["default"]}], "store": true,
            "text": {"format": {"type": "text"}}, "include": ["file_search_call.results"],
        }),
        "/v1/completions" => {
            json!({"model": "onegen", "prompt": ["Hello!", "Bye!"], "max_tokens": 4, "echo": true})
        }
        "/v1/embeddings" => {
            json!({"model": "onegen", "input": ["Peru", "Chile"], "encoding_format": "float"})
        }
        "/v1/documents" => {
            json!({"documents": [{"id": "random", "text": "A text.", "title": "Title",
            "url": "https://example.org", "metadata": {"a": 1, "b": ["x"]}}]})
        }
        "/v1/conversations" => json!({"items": [message], "metadata": {"a": "b"}}),
        path if path.ends_with("/items") => json!({"items": [message]}),
        path if path.ends_with("/fork") => json!({"after": "msg_1"}),
        path if path.ends_with("/search") => {
            json!({"query": ["Peru"], "max_num_results": 3, "filters":
            {"type": "and", "filters": [{"type": "gt", "key": "a", "value": 0}]}, "rewrite_query": false})
        }
        path if path.starts_with("/v1/conversations/") => json!({"metadata": {"a": "b"}}),
        _ => json!({"texts": ["Lima is in Peru."], "model": "onegen"}),
    }
}

/// A value that is wrong nearly everywhere.
fn strange(rng: &mut StdRng) -> Value {
    let nested = (0..rng.random_range(1..40)).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("\u{0}"),
        json!("\u{202e}\u{feff}é"),
        json!("a".repeat(rng.random_range(1..5000))),
        json!([]),
        json!({}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
        nested,
        json!(vec![json!("x"); rng.random_range(1..200)]),
        json!("<|im_start|>[RQ]<paragraph></paragraph>"),
    ];
    values.choose(rng).unwrap().clone()
}

/// Changes one place somewhere within a value.
fn mutate(value: &mut Value, rng: &mut StdRng) {
    let children = match value {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if children == 0 || rng.random_bool(0.2) {
        *value = strange(rng);
        return;
    }
    let at = rng.random_range(0..children);
    match value {
        Value::Object(fields) => {
            let name = fields.keys().nth(at).unwrap().clone();
            match rng.random_range(0..8) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(format!("{name}_"), strange(rng))),
                _ => mutate(&mut fields[&name], rng),
            }
        }
        Value::Array(items) => match rng.random_range(0..8) {
            0 => drop(items.remove(at)),
            1 => items.push(strange(rng)),
            _ => mutate(&mut items[at], rng),
        },
        _ => {}
    }
}

/// A name that a path may hold, or not.
fn name(known: &[String], rng: &mut StdRng) -> String {
    let strange = [
        "",
        "..",
        "%2e%2e%2fetc",
        "%00",
        "%ff",
        "%",
        "conv_",
        "msg_1",
        "resp_1_",
        "a/b",
        "?",
        "é",
        "18446744073709551616",
    ];
    if rng.random_bool(0.5) {
        known.choose(rng).unwrap().clone()
    } else if rng.random_bool(0.1) {
        "x".repeat(rng.random_range(1..6000))
    } else {
        (*strange.choose(rng).unwrap()).to_owned()
    }
}

/// Replaces each `{parameter}`, and adds a query now and then.
fn filled(path: &str, known: &[String], rng: &mut StdRng) -> String {
    let mut filled = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        filled.push_str(&name(known, rng));
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    filled.push_str(rest);
    if rng.random_bool(0.3) {
        let fields = [
            "limit",
            "order",
            "after",
            "include",
            "collection",
            "stream",
            "x",
        ];
        let (field, value) = (fields.choose(rng).unwrap(), name(known, rng));
        write!(filled, "?{field}={}", value.replace(['?', '#'], "")).unwrap();
    }
    filled
}

/// Damages the bytes of a body.
fn damaged(body: &Value, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(body).unwrap();
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..3) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.insert(at.min(bytes.len()), rng.random()),
        }
    }
    bytes
}

#[tokio::test]
async fn random_requests_are_answered_or_refused_and_never_fail_the_server() {
    let count: usize = std::env::var("ONEGEN_REQUESTS").map_or(5000, |text| text.parse().unwrap());
    let seed =
        std::env::var("ONEGEN_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-tokens", "8"])).await;
    let routes = routes(&server).await;
    assert!(routes.len() > 30, "{} routes", routes.len());
    let answer = server
        .complete(&with(question("Hello!"), json!({"max_tokens": 4})))
        .await;
    let response = json!({"model": "onegen", "input": "Hello!", "max_output_tokens": 4});
    let response = server.done("POST", "/v1/responses", response).await;
    let id = conversation(&answer).to_owned();
    let known = [
        id.clone(),
        response["id"].as_str().unwrap().to_owned(),
        "default".to_owned(),
        "country-peru".to_owned(),
        format!("{}_1", id.replace("conv_", "msg_")),
    ];
    let mut refused = 0;
    for number in 0..count {
        let route = routes.choose(&mut rng).unwrap();
        if route.path == "/v1/admin/reload" {
            continue;
        }
        let path = filled(&route.path, &known, &mut rng);
        let Ok(url) = format!("{}{path}", server.url).parse::<reqwest::Url>() else {
            continue;
        };
        let mut body = valid_body(&route.path);
        for _ in 0..rng.random_range(0..4) {
            mutate(&mut body, &mut rng);
        }
        let mut request = server.http.request(route.method.clone(), url);
        if route.method != Method::GET && !rng.random_bool(0.05) {
            let types = [
                "application/json",
                "application/json; charset=x",
                "text/plain",
                "",
            ];
            let kind = if rng.random_bool(0.95) {
                types[0]
            } else {
                types.choose(&mut rng).unwrap()
            };
            request = request
                .header("content-type", kind)
                .body(match rng.random_range(0..6) {
                    0 => damaged(&body, &mut rng),
                    _ => serde_json::to_vec(&body).unwrap(),
                });
            if rng.random_bool(0.02) {
                request = request.header("content-encoding", "gzip");
            }
        }
        let about = format!(
            "request {number} of seed {seed}: {} {path} {body}",
            route.method
        );
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{about}: {error}"));
        let status = response.status();
        let text = response
            .text()
            .await
            .unwrap_or_else(|error| panic!("{about}: {error}"));
        assert!(!status.is_server_error(), "{about}: {status} {text}");
        assert!(!text.contains("internal_error"), "{about}: {text}");
        if status.is_client_error() && route.method != Method::HEAD {
            refused += 1;
            let error =
                envelope(serde_json::from_str(&text).unwrap_or_else(|_| panic!("{about}: {text}")));
            assert!(!error["message"].as_str().unwrap().is_empty(), "{about}");
        }
    }
    assert!(
        refused > count / 4,
        "only {refused} of {count} were refused"
    );
    server.get_json("/readyz").await;
    server
        .complete(&with(question("Hello!"), json!({"max_tokens": 4})))
        .await;
}

/// A stream that goes on for long.
fn long(files: &Files) -> Value {
    let fields = json!({"logit_bias": files.bias(false), "max_tokens": 3900, "stream": true});
    with(question("Hello!"), fields)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_requests_of_one_key_leave_room_for_another() {
    let files = Files::new();
    let (keys, made) = files.write_keys(["alice", "bob"]);
    let keys = keys.to_str().unwrap();
    let server =
        Server::start(&files.config(&["--api-keys", keys, "--max-concurrent", "16"])).await;
    let [alice, bob] = [0, 1].map(|at: usize| server.with_key(&made[at]));
    let body = long(&files);
    let (responses, answered) =
        tokio::join!(join_all((0..300).map(|_| alice.send(&body))), async {
            let mut answered = 0;
            for _ in 0..5 {
                let short = with(question("Hello!"), files.without_retrieval(4));
                let text = bob.send(&with(short, json!({"stream": true}))).await;
                assert_eq!(text.status(), StatusCode::OK);
                assert!(!chunks(&text.text().await.unwrap()).is_empty());
                answered += 1;
            }
            answered
        });
    assert_eq!(answered, 5);
    let (accepted, refused): (Vec<_>, Vec<_>) = responses
        .into_iter()
        .partition(|response| response.status() == StatusCode::OK);
    assert!(
        accepted.len() >= 16 && refused.len() > 200,
        "{} accepted",
        accepted.len()
    );
    for response in &refused {
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "1");
    }
    // Those that were given up are gone, and their places are free.
    drop(accepted);
    let short = with(question("Hello!"), files.without_retrieval(4));
    while alice.send(&short).await.status() != StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_leave_nothing_behind() {
    use crate::common::process::Process;

    let files = Files::new();
    let server = Process::start(&files, &files.data_dir());
    let open_files = || {
        std::fs::read_dir(format!("/proc/{}/fd", server.id()))
            .unwrap()
            .count()
    };
    let body = long(&files);
    let break_some = async |count: usize| {
        for _ in 0..count / 20 {
            // A client of its own, whose connections close with it.
            let client = Client::new(server.client.url.clone());
            let streams: Vec<Response> = join_all((0..20).map(|_| client.send(&body))).await;
            for stream in streams {
                let _ = stream.bytes_stream().next().await;
            }
        }
        let idle = |running: f64| running == 0.0;
        server
            .client
            .awaited("onegen_num_requests_running", idle)
            .await;
    };
    break_some(100).await;
    let before = (server.memory_mb("VmRSS"), open_files());
    break_some(200).await;
    // Connections close a moment after their streams.
    let mut after = open_files();
    for _ in 0..100 {
        if after <= before.1 + 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = open_files();
    }
    let memory = server.memory_mb("VmRSS");
    println!(
        "memory {} to {memory} MB, open files {} to {after}",
        before.0, before.1
    );
    assert!(
        after <= before.1 + 4,
        "open files: {} became {after}",
        before.1
    );
    assert!(
        memory <= before.0 + 32,
        "memory: {} became {memory} MB",
        before.0
    );
}
