//! The client as which a request through proxies is counted.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::process::{End, Process, command};
use crate::common::{Files, Server, question, with};
use reqwest::StatusCode;

/// What it answers to a request that says where it comes from.
async fn status(files: &Files, server: &Server, header: &str, value: &str) -> StatusCode {
    let body = files.without_retrieval(2);
    let url = format!("{}/v1/chat/completions", server.url);
    let request = server.http.post(url).json(&with(question("Hello!"), body));
    request.header(header, value).send().await.unwrap().status()
}

#[tokio::test]
async fn a_header_of_somebody_who_is_no_trusted_proxy_changes_nothing() {
    let files = Files::new();
    for proxies in [&[][..], &["--trusted-proxies", "10.0.0.0/8,::1"]] {
        let arguments = [&["--requests-per-minute", "1"], proxies].concat();
        let server = Server::start(&files.config(&arguments)).await;
        let first = status(&files, &server, "x-forwarded-for", "1.1.1.1").await;
        assert_eq!(first, StatusCode::OK);
        for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            let spoofed = status(&files, &server, header, "2.2.2.2").await;
            assert_eq!(spoofed, StatusCode::TOO_MANY_REQUESTS, "{header}");
        }
        let mut server = server;
        server.stop();
        server.stopped().await;
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_share_and_cannot_take_anothers() {
    let files = Files::new();
    let arguments = [
        "--requests-per-minute",
        "1",
        "--trusted-proxies",
        "127.0.0.0/8",
    ];
    let server = Server::start(&files.config(&arguments)).await;
    let asked = async |value| status(&files, &server, "x-forwarded-for", value).await;
    assert_eq!(asked("1.1.1.1").await, StatusCode::OK);
    assert_eq!(asked("2.2.2.2").await, StatusCode::OK);
    assert_eq!(asked("1.1.1.1").await, StatusCode::TOO_MANY_REQUESTS);
    // In the header, the client's own entry comes before the proxy's.
    assert_eq!(
        asked("3.3.3.3, 1.1.1.1").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(
        asked("127.0.0.9, 2.2.2.2").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    // This proxy does not write the other header, so the request counts as the proxy's.
    let other = status(&files, &server, "forwarded", "for=4.4.4.4").await;
    assert_eq!(other, StatusCode::OK);
    let other = status(&files, &server, "forwarded", "for=5.5.5.5").await;
    assert_eq!(other, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn the_log_names_the_client_and_not_the_proxy() {
    let files = Files::new();
    let log = files.dir.path().join("log");
    let mut command = command(&files, &files.data_dir());
    command.args(["--log", "info", "--log-format", "json"]);
    command.args([
        "--trusted-proxies",
        "127.0.0.1",
        "--forwarded-header",
        "forwarded",
    ]);
    command.stderr(fs::File::create(&log).unwrap());
    let process = Process::spawn(command);
    let url = format!("{}/v1/models", process.client.url);
    for header in [None, Some("for=\"[2001:db8::7]:4711\";proto=https")] {
        let request = process.client.http.get(&url);
        let request = match header {
            Some(value) => request.header("forwarded", value),
            None => request,
        };
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    }
    process.end(End::Terminated);
    let log = fs::read_to_string(&log).unwrap();
    let clients: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["span"]["path"] == "/v1/models")
        .map(|line| line["span"]["client"].clone())
        .collect();
    assert_eq!(clients, ["127.0.0.1", "2001:db8::7"]);
}
