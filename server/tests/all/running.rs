//! The program as operators see it: its configuration, its log, its signals.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::process::{End, Process, command};
use crate::common::{Client, Files, Server, content, data, question, with};
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn keys_are_read_again_on_sighup_and_never_logged() {
    let files = Files::new();
    let keys = files.dir.path().join("keys.toml");
    let new_key = |name: &str| {
        let made = Command::new(env!("CARGO_BIN_EXE_onegen-server"))
            .args(["new-key", name, "--scopes", "chat,admin"])
            .output()
            .unwrap();
        let key = String::from_utf8(made.stderr).unwrap();
        let key = key.trim().rsplit(' ').next().unwrap().to_owned();
        (key, String::from_utf8(made.stdout).unwrap())
    };
    let (first, entry) = new_key("first");
    let (second, other_entry) = new_key("second");
    fs::write(&keys, entry).unwrap();
    let log = files.dir.path().join("log");
    let mut command = command(&files, &files.data_dir());
    command
        .arg("--api-keys")
        .arg(&keys)
        .args(["--log", "trace"]);
    command.stderr(fs::File::create(&log).unwrap());
    let process = Process::spawn(command);
    let status = async |key: &str| {
        process
            .client
            .with_key(key)
            .get("/v1/models")
            .await
            .status()
    };
    assert_eq!(status(&first).await, 200);
    assert_eq!(status(&second).await, 401);

    // An invalid file changes nothing.
    fs::write(&keys, "no keys").unwrap();
    process.signal("-HUP");
    eventually(|| {
        fs::read_to_string(&log)
            .unwrap()
            .contains("stay as they were")
    })
    .await;
    assert_eq!(status(&first).await, 200);
    fs::write(&keys, other_entry).unwrap();
    process.signal("-HUP");
    let since = Instant::now();
    while status(&second).await != 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "not read again");
    }
    assert_eq!(status(&first).await, 401);
    process.end(End::Terminated);
    let log = fs::read_to_string(&log).unwrap();
    assert!(
        log.contains("key=\"second\"") || log.contains("key=second"),
        "{log}"
    );
    for key in [&first, &second] {
        assert!(!log.contains(key.as_str()), "a key stands in the log");
    }
}

async fn eventually(so: impl Fn() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < Duration::from_secs(20), "never so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_text_of_anybody_stands_in_the_log() {
    let files = Files::new();
    for (level, format) in [("info", "text"), ("info", "json"), ("debug", "json")] {
        let log = files.dir.path().join("log");
        let mut command = command(&files, &files.data_dir());
        command.args(["--log", level, "--log-format", format]);
        command.stderr(fs::File::create(&log).unwrap());
        let process = Process::spawn(command);
        let body = with(question("marzipan"), json!({"max_tokens": 8}));
        let body = with(body, json!({"logit_bias": files.bias(true)}));
        let mut answers = vec![process.client.complete(&body).await];
        let stream = process.client.stream(&body).await;
        assert!(stream.len() > 2);
        let next =
            json!({"conversation": crate::common::conversation(&answers[0]), "max_tokens": 8});
        answers.push(
            process
                .client
                .complete(&with(question("marzipan"), next))
                .await,
        );
        // An error quotes the client's input only to the client, not in the log.
        let bad = with(
            question("x"),
            json!({"response_format": {"type": "marzipan"}}),
        );
        process.client.refused(&bad).await;
        process.client.get("/v1/marzipan?text=marzipan").await;
        process.end(End::Terminated);
        let log = fs::read_to_string(&log).unwrap();
        assert!(
            log.contains("/v1/chat/completions"),
            "nothing was logged: {log}"
        );
        let without_paths = log.replace("/v1/marzipan", "");
        assert!(
            !without_paths.contains("marzipan"),
            "{level} {format}: {log}"
        );
        for answer in &answers {
            let text = content(answer);
            assert!(
                text.len() < 4 || !log.contains(text),
                "{level} {format}: {log}"
            );
        }
    }
}

#[tokio::test]
async fn each_line_of_the_json_log_is_an_object_that_names_its_request() {
    let files = Files::new();
    let log = files.dir.path().join("log");
    let mut command = command(&files, &files.data_dir());
    command.args(["--log", "info", "--log-format", "json"]);
    command.stderr(fs::File::create(&log).unwrap());
    let process = Process::spawn(command);
    let url = format!("{}/v1/models", process.client.url);
    let request = process
        .client
        .http
        .get(url)
        .header("x-request-id", "mine-7");
    let response = request.send().await.unwrap();
    // The client's request id is returned; without one the server makes one.
    assert_eq!(response.headers()["x-request-id"], "mine-7");
    let made = process.client.get("/v1/models").await;
    assert_eq!(made.headers()["x-request-id"].len(), 36);
    process.end(End::Terminated);
    let log = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mine = lines
        .iter()
        .find(|line| line["span"]["id"] == "mine-7")
        .unwrap();
    assert_eq!(mine["span"]["path"], "/v1/models");
    assert_eq!(mine["span"]["method"], "GET");
    assert_eq!(mine["level"], "INFO");
    assert!(mine["timestamp"].as_str().unwrap().ends_with('Z'));
    assert!(mine["message"].is_string());
}

#[tokio::test]
async fn a_server_is_configured_by_a_file_and_says_what_it_was_told() {
    let files = Files::new();
    let file = files.dir.path().join("onegen.toml");
    let path = |path: &std::path::Path| format!("{:?}", path.to_str().unwrap());
    let (model, corpus) = (path(files.model()), path(&files.corpus()));
    let text = format!(
        "model = {model}\ncorpus = {corpus}\ndata-dir = {}\nport = 0\nlog = \"error\"\n\
         served-model-name = \"from-the-file\"\nmax-tokens = 3\n",
        path(&files.data_dir())
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.arg("--config").arg(&file);
    command.env("ONEGEN_SERVED_MODEL_NAME", "from-a-variable");
    let process = Process::spawn(command);
    let models = process.client.get_json("/v1/models").await;
    assert_eq!(models["data"][0]["id"], "from-a-variable");
    let said = process.said.join("\n");
    for line in [
        "max-tokens = 3 (file)",
        "served-model-name = from-a-variable (variable)",
    ] {
        assert!(said.contains(line), "{said}");
    }
    process.end(End::Terminated);

    fs::write(&file, "prot = 1").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    let refused = command.arg("--config").arg(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("prot is the name of no flag"), "{told}");
}

/// A client that trusts the certificate of the tests.
fn trusting(url: &str) -> Client {
    let certificate = fs::read(data("localhost.crt")).unwrap();
    let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
    let http = reqwest::Client::builder().add_root_certificate(certificate);
    Client {
        url: url.replace("http://127.0.0.1", "https://localhost"),
        http: http.build().unwrap(),
    }
}

#[tokio::test]
async fn with_a_certificate_the_server_speaks_tls_and_nothing_else() {
    let files = Files::new();
    let [certificate, key] = ["localhost.crt", "localhost.key"].map(data);
    let arguments = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
        "--requests-per-minute",
        "2",
    ];
    let mut server = Server::start(&files.config(&arguments)).await;
    // A client that connects and sends nothing does not delay others.
    let silent = tokio::net::TcpStream::connect(server.url.strip_prefix("http://").unwrap());
    let silent = silent.await.unwrap();
    let client = trusting(&server.url);
    let body = with(question("Hello!"), files.without_retrieval(8));
    assert!(client.stream(&body).await.len() > 2);
    client.complete(&body).await;
    // The client's address is known here too.
    assert_eq!(
        client.send(&body).await.status(),
        StatusCode::TOO_MANY_REQUESTS
    );
    let plain = server.http.get(format!("{}/healthz", server.url)).send();
    assert!(plain.await.is_err());
    server.stop();
    server.stopped().await;
    drop(silent);

    let half = files.config(&["--tls-cert", certificate.to_str().unwrap()]);
    let error = onegen_server::App::load(&half).err().unwrap().to_string();
    assert!(error.contains("--tls-key"), "{error}");
    let swapped = [arguments[0], arguments[3], arguments[2], arguments[1]];
    let error = onegen_server::App::load(&files.config(&swapped)).err();
    let error = error.unwrap().to_string();
    assert!(
        error.contains("certificate") && error.contains("localhost.key"),
        "{error}"
    );
}

#[tokio::test]
async fn pages_of_the_named_origins_may_ask_and_others_may_not() {
    let files = Files::new();
    for (origins, asking, allowed) in [
        (
            "https://a.example,https://b.example",
            "https://b.example",
            Some("https://b.example"),
        ),
        (
            "https://a.example,https://b.example",
            "https://c.example",
            None,
        ),
        ("none", "https://a.example", None),
        ("*", "https://a.example", Some("*")),
    ] {
        let server = Server::start(&files.config(&["--cors-origins", origins])).await;
        let request = server.http.get(format!("{}/healthz", server.url));
        let response = request.header("origin", asking).send().await.unwrap();
        let header = response.headers().get("access-control-allow-origin");
        assert_eq!(
            header.map(|value| value.to_str().unwrap()),
            allowed,
            "{origins}"
        );
        let mut server = server;
        server.stop();
        server.stopped().await;
    }
}
