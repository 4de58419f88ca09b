//! The metrics of responses.
#![allow(clippy::unwrap_used)]

use crate::common::{Files, Server, question, with};
use reqwest::Method;
use serde_json::{Value, json};

fn responses(route: &str, method: &str, status: u16) -> String {
    format!(
        "onegen_http_responses_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
    )
}

fn errors(code: &str) -> String {
    format!("onegen_request_errors_total{{code=\"{code}\"}}")
}

#[tokio::test]
async fn every_response_is_counted_under_its_routes_template_method_and_status() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--requests-per-minute", "4"])).await;
    let short = files.without_retrieval(2);
    assert_eq!(server.metric(&errors("rate_limit_exceeded")).await, 0.0);
    // Of these four requests two are refused because of their content.
    server.stream(&with(question("Hello!"), short)).await;
    server
        .refused(&json!({"model": "other", "messages": []}))
        .await;
    for id in ["country-peru", "nobody"] {
        server.get(&format!("/v1/documents/{id}")).await;
    }
    for _ in 0..3 {
        server.refused(&question("Hello!")).await;
    }
    for path in ["/v1/a", "/v1/b", "/c/d?e=f"] {
        server.get(path).await;
    }
    let url = format!("{}/v1/models", server.url);
    for method in ["PATCH", "BREW", "OPTIONS"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        server.http.request(method, &url).send().await.unwrap();
    }
    let chat = "/v1/chat/completions";
    for (name, count) in [
        (responses(chat, "POST", 200), 1.0),
        (responses(chat, "POST", 404), 1.0),
        (responses(chat, "POST", 429), 3.0),
        (responses("/v1/documents/{id}", "GET", 200), 1.0),
        (responses("/v1/documents/{id}", "GET", 404), 1.0),
        (responses("none", "GET", 404), 3.0),
        (responses("/v1/models", "PATCH", 405), 1.0),
        (responses("/v1/models", "other", 405), 1.0),
        (responses("/v1/models", "OPTIONS", 200), 1.0),
        (errors("rate_limit_exceeded"), 3.0),
        (errors("model_not_found"), 1.0),
        (errors("document_not_found"), 1.0),
        (errors("method_not_allowed"), 2.0),
        (errors("overloaded"), 0.0),
    ] {
        assert_eq!(server.metric(&name).await, count, "{name}");
    }
    let text = server.get("/metrics").await.text().await.unwrap();
    for path in ["country-peru", "/v1/a", "/c/d"] {
        assert!(!text.contains(path), "{text}");
    }
}

#[tokio::test]
async fn keys_that_are_not_known_are_counted() {
    let files = Files::new();
    let (keys, [alice]) = files.write_keys(["alice"]);
    let arguments = ["--api-keys", keys.to_str().unwrap(), "--open-metrics"];
    let server = Server::start(&files.config(&arguments)).await;
    let stranger = server.with_key("sk-onegen-wrong");
    for client in [&server.with_key(&alice), &stranger, &stranger] {
        client.ask("GET", "/v1/models", Value::Null).await;
    }
    assert_eq!(server.metric(&errors("invalid_api_key")).await, 2.0);
    let unauthorized = responses("/v1/models", "GET", 401);
    assert_eq!(server.metric(&unauthorized).await, 2.0);
}
