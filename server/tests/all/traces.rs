//! The traces that a collector receives.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::collector::{Collector, Span};
use crate::common::process::{End, Process, command};
use crate::common::{Files, Server, conversation, count, question, with};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{CLIENT}-{:02x}", u8::from(sampled))
}

async fn traced(files: &Files, more: &[&str]) -> (Server, Collector) {
    let collector = Collector::start(&[]).await;
    let mut arguments = vec!["--otlp-endpoint", &collector.url];
    arguments.extend(more);
    let server = Server::start(&files.config(&arguments)).await;
    (server, collector)
}

/// Stops the server. After this the collector has all traces.
async fn flushed(mut server: Server) {
    server.stop();
    server.stopped().await;
}

/// A turn that retrieves at its start and writes a few tokens.
fn retrieving(files: &Files) -> Value {
    let fields = json!({
        "logit_bias": files.bias(true), "max_tokens": 8,
        "retrieval": {"max_retrievals": 1, "k": 2},
    });
    with(question("marzipan?"), fields)
}

/// The span of the request, and those within it in the order of their beginnings.
fn family(collector: &Collector) -> (Span, Vec<Span>) {
    let (roots, mut inner): (Vec<_>, Vec<_>) = collector
        .spans()
        .into_iter()
        .partition(|span| span.kind == 2);
    let [root] = &roots[..] else {
        panic!("{} requests", roots.len());
    };
    inner.sort_by_key(|span| span.began);
    for span in &inner {
        assert_eq!((&span.parent, &span.trace), (&root.id, &root.trace));
        assert_eq!(span.kind, 1);
        assert!(root.began <= span.began && span.ended <= root.ended);
    }
    for pair in inner.windows(2) {
        assert_eq!(pair[0].ended, pair[1].began, "{pair:?}");
    }
    (root.clone(), inner)
}

/// A structured attribute.
fn parsed(attribute: &Value) -> Value {
    serde_json::from_str(attribute.as_str().unwrap()).unwrap()
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_request_is_a_span_under_the_clients_and_its_phases_are_spans_in_it() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    let url = format!("{}/v1/chat/completions", server.url);
    let request = server.http.post(url).json(&retrieving(&files));
    let request = request.header("traceparent", traceparent(true));
    let asked = Instant::now();
    let answer = request
        .header("tracestate", "vendor=1")
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    let took = asked.elapsed();
    flushed(server).await;

    let (root, inner) = family(&collector);
    assert_eq!((&*root.trace, &*root.parent), (TRACE, CLIENT));
    assert_eq!((&*root.state, &*root.name), ("vendor=1", "chat onegen"));
    assert_eq!(root.status, 0);
    let usage = &answer["usage"];
    for (name, value) in [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.provider.name", json!("onegen")),
        ("gen_ai.request.model", json!("onegen")),
        ("gen_ai.response.model", json!("onegen")),
        ("gen_ai.conversation.id", json!(conversation(&answer))),
        ("gen_ai.usage.input_tokens", usage["prompt_tokens"].clone()),
        (
            "gen_ai.usage.output_tokens",
            usage["completion_tokens"].clone(),
        ),
        ("gen_ai.response.finish_reasons", json!(["length"])),
        ("gen_ai.request.max_tokens", json!(8)),
        ("http.request.method", json!("POST")),
        ("http.route", json!("/v1/chat/completions")),
        ("http.response.status_code", json!(200)),
    ] {
        assert_eq!(root.attributes[name], value, "{name}");
    }
    assert_eq!(root.resource["service.name"], "onegen");

    let phases = [
        "queue",
        "prefill",
        "decode",
        "retrieval",
        "splice",
        "decode",
    ];
    assert_eq!(names(&inner), phases);
    // The times are those that the engine measured, as in the receipt.
    let receipt = &answer["onegen"]["retrievals"][0];
    for (span, told) in [(&inner[3], "search_ms"), (&inner[4], "splice_ms")] {
        let milliseconds = (span.ended - span.began) as f64 / 1e6;
        let told = receipt[told].as_f64().unwrap();
        assert!((milliseconds - told).abs() < 0.002, "{milliseconds} {told}");
    }
    let sum: u64 = inner.iter().map(|span| span.ended - span.began).sum();
    assert!(sum <= root.ended - root.began);
    assert!(u128::from(root.ended - root.began) <= took.as_nanos());
    // Ids and scores, and no text.
    let retrieval = &inner[3].attributes;
    assert_eq!(retrieval["gen_ai.operation.name"], "retrieval");
    assert_eq!(retrieval["gen_ai.data_source.id"], "default");
    let documents = parsed(&retrieval["gen_ai.retrieval.documents"]);
    let documents = documents.as_array().unwrap();
    let passages = receipt["passages"].as_array().unwrap();
    assert_eq!(documents.len(), 2);
    for (document, passage) in documents.iter().zip(passages) {
        assert_eq!(document["id"], passage["id"]);
        let [score, told] = [document, passage].map(|one| one["score"].as_f64().unwrap());
        assert!((score - told).abs() < 1e-6);
        assert_eq!(document.as_object().unwrap().len(), 2);
    }
    let all = format!("{:?}", collector.spans());
    assert!(
        !all.contains("marzipan") && !all.contains("capital"),
        "{all}"
    );
}

#[tokio::test]
async fn texts_are_in_a_trace_where_they_are_asked_for() {
    let files = Files::new();
    let (server, collector) = traced(&files, &["--trace-text"]).await;
    let answer = server.complete(&retrieving(&files)).await;
    flushed(server).await;
    let (root, inner) = family(&collector);
    let input = &parsed(&root.attributes["gen_ai.input.messages"])[0];
    let parts = json!([{"type": "text", "content": "marzipan?"}]);
    assert_eq!(input, &json!({"role": "user", "parts": parts}));
    let output = &parsed(&root.attributes["gen_ai.output.messages"])[0];
    assert_eq!(
        output["parts"][0]["content"],
        crate::common::content(&answer)
    );
    assert_eq!(output["finish_reason"], "length");
    let documents = parsed(&inner[3].attributes["gen_ai.retrieval.documents"]);
    let text = documents[0]["content"].as_str().unwrap();
    assert!(
        text.contains("capital") || text.contains("symbol"),
        "{text}"
    );
}

#[tokio::test]
async fn turns_that_are_cancelled_or_fail_end_in_an_error() {
    let files = Files::new();
    // Without drafts the turn takes more than twice the time that it is given.
    let endless = with(
        question("Hello!"),
        json!({
            "logit_bias": files.bias(false), "max_tokens": 3900, "stream": true, "drafting": false,
        }),
    );
    for (limits, error) in [
        (&[][..], "cancelled"),
        (&["--request-timeout", "0.1"], "request_timeout"),
        (&["--drain-timeout", "0.01"], "shutting_down"),
    ] {
        let (server, collector) = traced(&files, limits).await;
        let mut response = server.send(&endless).await;
        match error {
            "request_timeout" => while response.chunk().await.unwrap().is_some() {},
            // The first event comes before the first token is written.
            _ => {
                let mut read = Vec::new();
                while String::from_utf8_lossy(&read).matches("data: ").count() < 3 {
                    read.extend(response.chunk().await.unwrap().unwrap());
                }
            }
        }
        // If the response is dropped, the client disconnects.
        let kept = (error == "shutting_down").then_some(response);
        flushed(server).await;
        drop(kept);
        let (root, inner) = family(&collector);
        assert_eq!(
            (root.status, &root.attributes["error.type"]),
            (2, &json!(error))
        );
        let last = inner.last().unwrap();
        assert_eq!((&*last.name, last.status), ("decode", 2));
        assert_eq!(last.attributes["error.type"], error);
        assert!(inner[..inner.len() - 1].iter().all(|span| span.status == 0));
        assert!(
            root.attributes
                .get("gen_ai.response.finish_reasons")
                .is_none()
        );
    }
}

#[tokio::test]
async fn a_request_whose_client_goes_away_before_its_answer_is_a_span_too() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    let whole = json!({
        "model": "onegen", "prompt": "Peru", "max_tokens": 3900, "logit_bias": files.bias(false),
    });
    let request = server.http.post(format!("{}/v1/completions", server.url));
    let asking = tokio::spawn(request.json(&whole).send());
    while server.metric("onegen_num_requests_running").await < 1.0 {
        assert!(!asking.is_finished(), "too fast to be looked at");
    }
    asking.abort();
    flushed(server).await;
    let (root, inner) = family(&collector);
    assert_eq!(
        (root.status, &root.attributes["error.type"]),
        (2, &json!("cancelled"))
    );
    assert!(root.attributes.get("http.response.status_code").is_none());
    assert_eq!(inner.last().unwrap().status, 2);
}

#[tokio::test]
async fn a_stream_that_goes_on_without_its_client_lasts_as_long_as_its_turn() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    let body = with(
        question("Hello!"),
        json!({
            "logit_bias": files.bias(false), "max_tokens": 400, "stream": true, "resumable": true,
        }),
    );
    let mut response = server.send(&body).await;
    response.chunk().await.unwrap();
    drop(response);
    flushed(server).await;
    let (root, _) = family(&collector);
    assert_eq!(
        root.status,
        0,
        "{:?}",
        crate::common::collector::summary(&root)
    );
    assert_eq!(root.attributes["gen_ai.usage.output_tokens"], 400);
}

#[tokio::test]
async fn requests_without_a_turn_say_why_and_what_asks_nothing_of_the_model_is_no_trace() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    server.get_json("/v1/models").await;
    server.metric("onegen_conversations").await;
    server
        .refused(&json!({"model": "other", "messages": []}))
        .await;
    let texts = json!({"model": "onegen", "input": ["Peru", "Chile"]});
    let embedded = server.done("POST", "/v1/embeddings", texts).await;
    flushed(server).await;
    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.began);
    let [refused, embeddings] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(refused.name, "chat");
    assert_eq!(refused.attributes["error.type"], "model_not_found");
    assert_eq!(refused.attributes["http.response.status_code"], 404);
    // A client's error is not an error of the server's span.
    assert_eq!(refused.status, 0);
    assert_eq!(
        (&*embeddings.name, embeddings.status),
        ("embeddings onegen", 0)
    );
    let tokens = &embeddings.attributes["gen_ai.usage.input_tokens"];
    assert_eq!(tokens, &embedded["usage"]["prompt_tokens"]);
    assert_eq!(embeddings.parent, "");
}

#[tokio::test]
async fn several_texts_of_one_request_add_up() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    let body = json!({
        "model": "onegen", "prompt": ["Peru", "Chile is"], "max_tokens": 4,
        "logit_bias": files.bias(false),
    });
    let answer = server.done("POST", "/v1/completions", body).await;
    flushed(server).await;
    let spans = collector.spans();
    let root = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!(root.name, "text_completion onegen");
    let read = count(&answer["usage"]["prompt_tokens"]);
    assert_eq!(root.attributes["gen_ai.usage.input_tokens"], read);
    assert_eq!(root.attributes["gen_ai.usage.output_tokens"], 8);
    let reasons = &root.attributes["gen_ai.response.finish_reasons"];
    assert_eq!(reasons, &json!(["length", "length"]));
    let queues = spans.iter().filter(|span| span.name == "queue");
    assert_eq!(queues.count(), 2);
}

#[tokio::test]
async fn a_client_that_does_not_sample_its_trace_is_not_traced() {
    let files = Files::new();
    let (server, collector) = traced(&files, &[]).await;
    for sampled in [false, true] {
        let url = format!("{}/v1/chat/completions", server.url);
        let request = server.http.post(url).json(&retrieving(&files));
        let request = request.header("traceparent", traceparent(sampled));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    }
    flushed(server).await;
    family(&collector);
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_harms_no_turn_and_the_drain_for_seconds_only() {
    let files = Files::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    // Nothing listens at the second address.
    for endpoint in [&silent, "http://127.0.0.1:1"] {
        let log = files.dir.path().join("log");
        let mut command = command(&files, &files.data_dir());
        command.args(["--otlp-endpoint", endpoint, "--log", "warn"]);
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
        command.stderr(fs::File::create(&log).unwrap());
        let process = Process::spawn(command);
        process.client.complete(&retrieving(&files)).await;
        let since = Instant::now();
        process.client.complete(&retrieving(&files)).await;
        process.end(End::Terminated);
        assert!(since.elapsed() < Duration::from_secs(9), "{endpoint}");
        let log = fs::read_to_string(&log).unwrap();
        assert!(log.contains("BatchSpanProcessor"), "{log}");
    }
}

// The collector answers while the test waits for the server's end.
#[tokio::test(flavor = "multi_thread")]
async fn the_variables_of_opentelemetry_count_and_what_was_put_off_comes_again() {
    let files = Files::new();
    let collector = Collector::start(&[StatusCode::SERVICE_UNAVAILABLE]).await;
    let log = files.dir.path().join("log");
    let mut command = command(&files, &files.data_dir());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hush");
    command.env("OTEL_SERVICE_NAME", "onegen-test");
    command.env(
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=x,deployment.environment.name=test",
    );
    // All in one batch.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    command.args(["--log", "debug"]);
    command.stderr(fs::File::create(&log).unwrap());
    let process = Process::spawn(command);
    let said = process.said.join("\n");
    let told = format!("traces go to {}/v1/traces as onegen-test", collector.url);
    assert!(said.contains(&told), "{said}");
    process.client.complete(&retrieving(&files)).await;
    process.end(End::Terminated);
    let (root, _) = family(&collector);
    assert_eq!(root.resource["service.name"], "onegen-test");
    assert_eq!(root.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(root.resource["deployment.environment.name"], "test");
    let headers = collector.headers();
    assert_eq!(headers.len(), 2);
    for headers in headers {
        assert_eq!(headers["authorization"], "Bearer hush");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    let log = fs::read_to_string(&log).unwrap();
    // Lines of a traced request name its trace.
    assert!(log.contains(&format!("trace={}", root.trace)), "{log}");
    assert!(!log.contains("hush") && !said.contains("hush"), "{log}");
}

// The collector answers while the test waits for the server's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_sampler_that_wants_no_trace_gets_none() {
    let files = Files::new();
    let collector = Collector::start(&[]).await;
    let mut command = command(&files, &files.data_dir());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    command.env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
    command.env("OTEL_TRACES_SAMPLER_ARG", "0");
    let process = Process::spawn(command);
    process.client.complete(&retrieving(&files)).await;
    let url = format!("{}/v1/chat/completions", process.client.url);
    let request = process.client.http.post(url).json(&retrieving(&files));
    let request = request.header("traceparent", traceparent(true));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    process.end(End::Terminated);
    // The client's own trace goes on.
    let (root, _) = family(&collector);
    assert_eq!(root.trace, TRACE);
}
