//! Clients that are slow, silent or early, and signals.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::almanac::{Countries, country, models};
use crate::common::process::{Process, command};
use crate::common::{Client, Files, Server, data, question, with};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Sends bytes on a new connection, which stays open.
async fn sent(server: &Server, bytes: &[u8]) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    connection
}

#[tokio::test]
async fn half_requests_do_not_hold_up_others_nor_the_end() {
    let files = Files::new();
    let mut server = files.serve().await;
    let mut open = Vec::new();
    for bytes in ["", "G", "GET /healthz HTTP/1.1\r\nhost: local", "PRI * HTT"] {
        for _ in 0..50 {
            open.push(sent(&server, bytes.as_bytes()).await);
        }
    }
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    let since = Instant::now();
    server.stop();
    server.stopped().await;
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn more_half_requests_than_files_can_be_open_keep_nobody_out() {
    let files = Files::new();
    let limited = command(&files, &files.data_dir());
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]);
    shell.arg(limited.get_program()).args(limited.get_args());
    shell.env("ONEGEN_LOG", "error");
    let server = Process::spawn(shell);
    let fields = json!({"logit_bias": files.bias(false), "max_tokens": 3000, "stream": true});
    let mut under_way = server.client.send(&with(question("Hello!"), fields)).await;
    assert!(under_way.chunk().await.unwrap().is_some());
    let address = server.client.url.strip_prefix("http://").unwrap();
    let mut open = Vec::new();
    for _ in 0..400 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let half = b"GET /healthz HTTP/1.1\r\nhost: local";
        connection.write_all(half).await.ok();
        open.push(connection);
    }
    for _ in 0..5 {
        // Each on a connection of its own.
        let client = Client::new(server.client.url.clone());
        assert_eq!(client.get("/healthz").await.status(), StatusCode::OK);
    }
    // An answer that is being written is not cut off.
    let mut text = String::new();
    while let Some(piece) = under_way.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(text.trim_end().ends_with("[DONE]"), "{text}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_in_time() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--body-timeout", "0.3"])).await;
    for (path, more) in [
        ("/v1/chat/completions", ""),
        ("/v1/embeddings", ""),
        ("/v1/chat/completions", "idempotency-key: a\r\n"),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{more}content-length: 1000\r\n\r\n"
        );
        let mut connection = sent(&server, head.as_bytes()).await;
        // It is trickled, so that no pause is long.
        let mut answer = Vec::new();
        for _ in 0..20 {
            connection.write_all(b" ").await.ok();
            let part = connection.read_buf(&mut answer);
            if let Ok(Ok(0)) = tokio::time::timeout(Duration::from_millis(50), part).await {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
        assert!(answer.contains("body_timeout"), "{path}: {answer}");
    }
}

/// A free port, and the command of a server there that embeds for some seconds before it serves.
async fn slow_start(countries: &Countries, scheme: &str) -> (String, Command) {
    let corpus = countries.path("large.jsonl");
    let mut lines = String::new();
    for number in 0..3000 {
        let mut passage = country("Peru");
        passage["id"] = json!(format!("peru-{number}"));
        lines += &format!("{passage}\n");
    }
    std::fs::write(&corpus, lines).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.arg("--model").arg(models().join("almanac"));
    command.arg("--corpus").arg(&corpus);
    command.arg("--data-dir").arg(countries.path("data"));
    command.arg("--port").arg(address.port().to_string());
    command.env("ONEGEN_LOG", "error").stdout(Stdio::null());
    if scheme == "https" {
        for (option, file) in [
            ("--tls-cert", "localhost.crt"),
            ("--tls-key", "localhost.key"),
        ] {
            command.arg(option).arg(data(file));
        }
    }
    (format!("{scheme}://localhost:{}", address.port()), command)
}

/// Asks until the server listens.
async fn ask(client: &Client, path: &str) -> (StatusCode, Value) {
    let since = Instant::now();
    loop {
        match client
            .http
            .get(format!("{}{path}", client.url))
            .send()
            .await
        {
            Ok(response) => return (response.status(), response.json().await.unwrap()),
            Err(error) => assert!(since.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn probes_are_answered_while_it_loads_and_a_signal_ends_that() {
    for scheme in ["http", "https"] {
        probes_while_it_loads(scheme).await;
    }
}

async fn probes_while_it_loads(scheme: &str) {
    let countries = Countries::write();
    let (url, mut command) = slow_start(&countries, scheme).await;
    let mut server = command.spawn().unwrap();
    let certificate = std::fs::read(data("localhost.crt")).unwrap();
    let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
    let http = reqwest::Client::builder().add_root_certificate(certificate);
    let client = Client {
        url,
        http: http.build().unwrap(),
    };
    let (status, ready) = ask(&client, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{ready}");
    assert_eq!(ready["status"], "loading");
    let since = Instant::now();
    let indexing = loop {
        let (_, ready) = ask(&client, "/readyz").await;
        let indexing = &ready["indexing"];
        if indexing["passages"].as_u64() > Some(0) {
            break indexing.clone();
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{ready}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(indexing["collection"], "default");
    let percent = indexing["percent"].as_u64();
    assert!(percent.is_some_and(|percent| percent <= 100), "{indexing}");
    assert_eq!(ask(&client, "/healthz").await.0, StatusCode::OK);
    let (status, error) = ask(&client, "/v1/models").await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("loading"))
    );
    let since = Instant::now();
    let terminated = Command::new("kill")
        .args(["-TERM", &server.id().to_string()])
        .status();
    assert!(terminated.unwrap().success());
    assert!(server.wait().unwrap().success());
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let files = Files::new();
    let mut started = command(&files, &files.dir.path().join("data"));
    started.args(["--drain-timeout", "60"]);
    let process = Process::spawn(started);
    let long = with(question("Hello!"), files.without_retrieval(3900));
    let body = with(long, json!({"stream": true}));
    let stream = process.client.send(&body).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let since = Instant::now();
    process.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    process.signal("-TERM");
    process.waited();
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
}
