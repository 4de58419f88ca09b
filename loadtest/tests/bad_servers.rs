//! What servers do wrong is named and counted, and never ends the program.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::stream;
use serde_json::{Value, json};

const MODELS: &str = r#"{"object":"list","data":[{"id":"m"}]}"#;

/// Serves one answer to every chat request, in a thread of its own, and returns the address.
fn server(answer: fn() -> Response) -> String {
    let (address, is_bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let routes = Router::new()
                .route("/v1/models", get(|| async { MODELS }))
                .route(
                    "/v1/chat/completions",
                    post(move || async move { answer() }),
                );
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
    format!("http://{}", is_bound.recv().unwrap())
}

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onegen-loadtest"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The figures of a second of load, which is ten requests.
fn figures(url: &str, more: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("run.json");
    let json_name = json.to_str().unwrap();
    let usual = [
        "run",
        "--url",
        url,
        "--arrivals",
        "constant",
        "--rate",
        "10",
        "--duration",
        "1",
        "--json",
        json_name,
    ];
    let output = loadtest(&[&usual[..], more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    report["figures"].clone()
}

/// An event stream out of these texts, which then ends, or never does.
fn events(texts: &'static [&'static str], ends: bool) -> Response {
    let texts = stream::iter(
        texts
            .iter()
            .map(|text| Ok::<_, std::io::Error>(Bytes::from(*text))),
    );
    let rest = stream::unfold((), move |()| async move {
        if !ends {
            std::future::pending::<()>().await;
        }
        None
    });
    let body = Body::from_stream(futures::StreamExt::chain(texts, rest));
    ([("content-type", "text/event-stream")], body).into_response()
}

const ROLE: &str =
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";
const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Li\"}}]}\n\n";

const LLAMA_CPP_END: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\
    \"usage\":{\"prompt_tokens\":8,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";

#[test]
fn a_server_that_refuses_is_counted_with_its_code() {
    let url = server(|| {
        let error = json!({"error": {"message": "slow down", "type": "rate_limit_error",
            "param": null, "code": "rate_limit_exceeded"}});
        (StatusCode::TOO_MANY_REQUESTS, error.to_string()).into_response()
    });
    let figures = figures(&url, &[]);
    assert_eq!(figures["outcomes"], json!({"refused": 10}));
    assert_eq!(figures["reasons"], json!({"429 rate_limit_exceeded": 10}));
    assert_eq!(figures["goodput_per_second"], 0.0);
}

#[test]
fn half_a_stream_is_no_answer_whatever_breaks_it() {
    for (answer, reason) in [
        (
            (|| events(&[ROLE, TEXT], true)) as fn() -> Response,
            "the stream ended before the answer did",
        ),
        (
            || events(&[ROLE, "data: {\"choices\":[{\n\n"], true),
            "an event is no chunk",
        ),
        (
            || "not an event stream".into_response(),
            "the stream ended before the answer did",
        ),
    ] {
        let figures = figures(&server(answer), &[]);
        assert_eq!(figures["outcomes"], json!({"cut_off": 10}), "{reason}");
        let reasons = figures["reasons"].as_object().unwrap();
        assert!(
            reasons.keys().all(|key| key.starts_with(reason)),
            "{reasons:?}"
        );
    }
}

#[test]
fn an_error_inside_a_stream_is_a_refusal_and_a_stream_without_done_an_answer() {
    let error = server(|| {
        events(
            &[
                TEXT,
                "data: {\"error\":{\"message\":\"out of memory\"}}\n\n",
            ],
            true,
        )
    });
    assert_eq!(
        figures(&error, &[])["reasons"],
        json!({"200 out of memory": 10})
    );
    // llama.cpp's server tells cached tokens and nothing of passages, and others tell less.
    let whole = server(|| events(&[TEXT, LLAMA_CPP_END], true));
    let figures = figures(&whole, &[]);
    assert_eq!(figures["outcomes"], json!({"ok": 10}));
    assert_eq!(
        (&figures["prompt_tokens"], &figures["cached_share"]),
        (&json!(80), &json!(0.5))
    );
}

#[test]
fn what_never_ends_is_given_up_and_what_is_too_much_is_dropped() {
    let silent = server(|| events(&[ROLE, TEXT], false));
    let figures_of = |more: &[&str]| figures(&silent, more)["outcomes"].clone();
    assert_eq!(figures_of(&["--timeout", "0.5"]), json!({"timed_out": 10}));
    assert_eq!(figures_of(&["--drain", "0.2"]), json!({"unfinished": 10}));
    let dropped = figures_of(&["--drain", "0.2", "--in-flight", "3"]);
    assert_eq!(dropped, json!({"dropped": 7, "unfinished": 3}));
    assert_eq!(
        figures_of(&["--disconnects", "1"]),
        json!({"disconnected": 10})
    );
}

#[test]
fn latencies_count_from_when_a_request_was_due() {
    // Every answer takes 300 ms of the only thread, so the tenth request waits for nine others.
    let url = server(|| {
        std::thread::sleep(Duration::from_millis(300));
        events(&[TEXT, "data: [DONE]\n\n"], true)
    });
    let figures = figures(&url, &[]);
    let ttft = |name: &str| figures["ttft_ms"][name].as_f64().unwrap();
    assert!(ttft("max") > 1_800.0, "{figures}");
    assert!(ttft("p50") > 700.0, "{figures}");
}

#[test]
fn a_server_that_is_not_there_and_wrong_options_are_named() {
    for (arguments, reason) in [
        (
            &["--url", "http://127.0.0.1:1"][..],
            "cannot be measured: Connection refused",
        ),
        (
            &["--url", "http://192.0.2.1"],
            "is another machine; say --remote",
        ),
        (&["--turns", "5..1"], "a number from 1, or a range"),
        (&["--body", "[]"], "wanted is a JSON object"),
        (
            &["--dataset", "/nowhere.jsonl"],
            "cannot read /nowhere.jsonl",
        ),
        (&["--trace", "/nowhere.jsonl"], "cannot read /nowhere.jsonl"),
        (
            &["--baseline", "/nowhere.json"],
            "cannot read /nowhere.json",
        ),
        (&["--disconnects", "2"], "a share from 0 to 1"),
        (&["--duration=-1"], "--duration wants a number of seconds"),
    ] {
        let output = loadtest(&[&["run"], arguments].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(reason),
            "{arguments:?}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn a_run_is_compared_with_one_that_is_alike_and_no_other() {
    let url = server(|| events(&[TEXT, TEXT, "data: [DONE]\n\n"], true));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |more: &[&str]| {
        let usual = ["run", "--url", &url, "--rate", "20", "--duration", "1"];
        loadtest(&[&usual[..], more].concat())
    };
    let (json, html) = (path("a.json"), path("a.html"));
    assert!(run(&["--json", &json, "--html", &html]).status.success());
    let page = fs::read_to_string(html).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    // The page needs nothing from elsewhere.
    assert!(!page.contains("src=") && !page.contains("<link"), "{page}");

    let alike = run(&["--baseline", &json]);
    let said = String::from_utf8_lossy(&alike.stdout);
    assert!(
        alike.status.success() && said.contains("good answers a second"),
        "{said}"
    );
    let other = run(&["--baseline", &json, "--max-tokens", "3"]);
    let errors = String::from_utf8_lossy(&other.stderr);
    assert!(
        !other.status.success() && errors.contains("max_tokens was 64 and is 3"),
        "{errors}"
    );

    let mut elsewhere: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    elsewhere["machine"]["processor"] = json!("another");
    fs::write(&json, elsewhere.to_string()).unwrap();
    let other = run(&["--baseline", &json]);
    let errors = String::from_utf8_lossy(&other.stderr);
    assert!(errors.contains("processor was \"another\""), "{errors}");
    fs::write(&json, "{}").unwrap();
    let none = run(&["--baseline", &json]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("is no report of onegen-loadtest"));
}

#[test]
fn a_sweep_ends_at_the_first_rate_that_is_not_borne() {
    // Eight answers a second are possible.
    let url = server(|| {
        std::thread::sleep(Duration::from_millis(125));
        events(&[TEXT, "data: [DONE]\n\n"], true)
    });
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("sweep.json");
    let html = dir.path().join("sweep.html");
    let output = loadtest(&[
        "sweep",
        "--url",
        &url,
        "--arrivals",
        "constant",
        "--rates",
        "2,4,40,80",
        "--duration",
        "2",
        "--json",
        json.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("borne up to 4 conversations a second"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["highest_borne"], 4.0);
    assert_eq!(report["steps"].as_array().unwrap().len(), 3);
    assert_eq!(fs::read_to_string(html).unwrap().matches("<svg").count(), 1);

    // A table of this sweep beside one that ended earlier.
    let (there, text) = (dir.path().join("there.json"), dir.path().join("a.md"));
    let mut shorter = report.clone();
    shorter["steps"].as_array_mut().unwrap().truncate(1);
    fs::write(&there, shorter.to_string()).unwrap();
    fs::write(
        &text,
        "Before\n<!-- knees -->\nold\n<!-- /knees -->\nafter\n",
    )
    .unwrap();
    let named = |name: &str, path: &Path| format!("{name}={}", path.display());
    let output = loadtest(&[
        "knees",
        &named("here", &json),
        &named("there", &there),
        "--into",
        text.to_str().unwrap(),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = fs::read_to_string(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["Before", "<!-- knees -->"]);
    assert_eq!(
        lines[2..4],
        ["| requests/s | here | there |", "|---|---|---|"]
    );
    assert_eq!(lines[7..], ["<!-- /knees -->", "after"]);
    let cells = |line: &str| line.split(" | ").map(str::to_owned).collect::<Vec<_>>();
    let (first, last) = (cells(lines[4]), cells(lines[6]));
    assert_eq!(first[0], "| 2.0");
    assert_eq!(first[1], first[2].trim_end_matches(" |"));
    let p95 = report["steps"][0]["figures"]["ttft_ms"]["p95"]
        .as_f64()
        .unwrap();
    assert!(first[1].ends_with(&format!("({p95:.0})")), "{text}");
    assert_eq!(last[2], " |");
}
