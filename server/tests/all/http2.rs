//! HTTP/2 over TLS: many requests on one connection, with the same streams, limits and end.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Client, Files, Server, chunks, data, question, with};
use futures::future::join_all;
use reqwest::{StatusCode, Version};
use serde_json::{Value, json};

/// A server that speaks TLS.
async fn serve(files: &Files, more: &[&str]) -> Server {
    let [certificate, key] = ["localhost.crt", "localhost.key"].map(data);
    let mut arguments = vec!["--tls-cert", certificate.to_str().unwrap()];
    arguments.extend(["--tls-key", key.to_str().unwrap()]);
    arguments.extend(more);
    Server::start(&files.config(&arguments)).await
}

/// A client that trusts the certificate of the tests. An `old` one uses only HTTP/1.1.
fn client(server: &Server, old: bool) -> Client {
    let certificate = fs::read(data("localhost.crt")).unwrap();
    let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
    let mut http = reqwest::Client::builder().add_root_certificate(certificate);
    if old {
        http = http.http1_only();
    }
    Client {
        url: server.url.replace("http://127.0.0.1", "https://localhost"),
        http: http.build().unwrap(),
    }
}

fn stream(files: &Files, max_tokens: usize) -> Value {
    let fields = json!({
        "logit_bias": files.bias(false), "max_tokens": max_tokens, "stream": true,
    });
    with(question("Hello!"), fields)
}

#[tokio::test]
async fn a_client_and_the_server_agree_on_the_newest_version_that_both_speak() {
    let files = Files::new();
    let server = serve(&files, &[]).await;
    for (old, version) in [(false, Version::HTTP_2), (true, Version::HTTP_11)] {
        let response = client(&server, old).send(&stream(&files, 8)).await;
        assert_eq!(response.version(), version);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(chunks(&response.text().await.unwrap()).len() > 2);
    }
}

#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_one_another() {
    let files = Files::new();
    let server = serve(&files, &[]).await;
    let client = client(&server, false);
    // Two streams that are not read meanwhile.
    let unread = [3900, 3900].map(|most| stream(&files, most));
    let unread = join_all(unread.iter().map(|body| client.send(body))).await;
    let bodies: Vec<_> = (0..16).map(|_| stream(&files, 40)).collect();
    let read = bodies.iter().map(|body| client.stream(body));
    for events in join_all(read).await {
        assert_eq!(
            events.last().unwrap()["choices"][0]["finish_reason"],
            "length"
        );
    }
    for response in unread {
        assert_eq!(response.version(), Version::HTTP_2);
        let events = chunks(&response.text().await.unwrap());
        assert_eq!(
            events.last().unwrap()["choices"][0]["finish_reason"],
            "length"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_turn_and_no_other_of_the_connection() {
    let files = Files::new();
    let server = serve(&files, &["--max-concurrent", "2"]).await;
    let client = client(&server, false);
    let mut given_up = client.send(&stream(&files, 3900)).await;
    let kept = client.send(&stream(&files, 600)).await;
    given_up.chunk().await.unwrap();
    // The limit is per address, over all of its connections.
    let refused = client.send(&stream(&files, 4)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(given_up);
    let since = Instant::now();
    while client.send(&stream(&files, 4)).await.status() != StatusCode::OK {
        assert!(since.elapsed() < Duration::from_secs(10), "still counted");
    }
    let aborted = "onegen_request_success_total{finished_reason=\"abort\"}";
    assert!(client.metric(aborted).await >= 1.0);
    let events = chunks(&kept.text().await.unwrap());
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
}

#[tokio::test]
async fn a_server_that_stops_lets_the_streams_of_a_connection_come_to_their_ends() {
    let files = Files::new();
    let mut server = serve(&files, &[]).await;
    let client = client(&server, false);
    let mut long = client.send(&stream(&files, 2000)).await;
    let mut text = long.chunk().await.unwrap().unwrap().to_vec();
    server.stop();
    let since = Instant::now();
    let refused = loop {
        let response = client.send(&stream(&files, 4)).await;
        match response.status() {
            StatusCode::OK => assert!(since.elapsed() < Duration::from_secs(10)),
            _ => break response,
        }
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.version(), Version::HTTP_2);
    while let Some(more) = long.chunk().await.unwrap() {
        text.extend(more);
    }
    let events = chunks(std::str::from_utf8(&text).unwrap());
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    drop((refused, long, client));
    tokio::time::timeout(Duration::from_secs(10), server.stopped())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_is_refused_before_the_body_is_read_hears_why_by_either_version() {
    let files = Files::new();
    let server = serve(&files, &["--max-body-kb", "64"]).await;
    for old in [true, false] {
        let client = client(&server, old);
        for (content_type, status, code) in [
            (
                "application/json",
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
            ),
            (
                "text/plain",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_content_type",
            ),
        ] {
            // More than any buffer between the two holds.
            let body = vec![b' '; 3 << 20];
            let url = format!("{}/v1/chat/completions", client.url);
            let request = client.http.post(url).header("content-type", content_type);
            let response = request.body(body).send().await.unwrap();
            assert_eq!(response.status(), status, "old: {old}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["error"]["code"], code, "old: {old}");
        }
        client
            .send(&stream(&files, 8))
            .await
            .error_for_status()
            .unwrap();
    }
}
