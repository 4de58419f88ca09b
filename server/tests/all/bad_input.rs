//! Every mistake of a client gets its status, its code and the name of the field.
#![allow(clippy::unwrap_used)]

use crate::common::{CONTEXT, Files, Server, envelope, models, question, with};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn expect(server: &Server, body: Value, status: u16, code: &str, param: Option<&str>) {
    let (got, error) = server.refused(&body).await;
    assert_eq!(got.as_u16(), status, "{body}: {error}");
    assert_eq!(error["code"], code, "{body}: {error}");
    assert_eq!(error["param"], json!(param), "{body}: {error}");
    assert_eq!(error["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_bad_field_is_named_with_a_fitting_status() {
    let files = Files::new();
    let server = files.serve().await;
    let hello = || question("Hello!");
    let unsupported = "unsupported_parameter";
    let invalid = "invalid_value";
    let messages = |messages: Value| json!({"model": "onegen", "messages": messages});
    let cases = [
        (json!({"messages": []}), 400, invalid, "model"),
        (json!({"model": "onegen"}), 400, invalid, "messages"),
        (messages(json!([])), 400, invalid, "messages"),
        (
            messages(json!([{"role": "user"}])),
            400,
            invalid,
            "messages[0].content",
        ),
        (
            messages(json!([{"role": "tool", "content": "x"}])),
            400,
            invalid,
            "messages[0].role",
        ),
        (
            messages(json!([{"role": "assistant", "content": "x"}])),
            400,
            invalid,
            "messages[0].role",
        ),
        (
            with(hello(), json!({"model": "gpt-4"})),
            404,
            "model_not_found",
            "model",
        ),
        (
            with(hello(), json!({"conversation": "conv_x"})),
            404,
            "conversation_not_found",
            "conversation",
        ),
        (with(hello(), json!({"n": 2})), 400, unsupported, "n"),
        (
            with(hello(), json!({"tools": [{}]})),
            400,
            unsupported,
            "tools",
        ),
        (
            with(hello(), json!({"temperature": 3})),
            400,
            invalid,
            "temperature",
        ),
        (
            with(hello(), json!({"max_tokens": 0})),
            400,
            invalid,
            "max_tokens",
        ),
        (
            with(hello(), json!({"max_tokens": -1})),
            400,
            invalid,
            "max_tokens",
        ),
        (with(hello(), json!({"stop": ""})), 400, invalid, "stop"),
        (
            with(hello(), json!({"logprobs": true, "top_logprobs": 21})),
            400,
            invalid,
            "top_logprobs",
        ),
        (
            with(hello(), json!({"top_logprobs": 2})),
            400,
            invalid,
            "top_logprobs",
        ),
        (
            with(hello(), json!({"retrieval": {"k": 0}})),
            400,
            invalid,
            "retrieval.k",
        ),
        (
            with(hello(), json!({"retrieval": {"min_score": -1.1}})),
            400,
            invalid,
            "retrieval.min_score",
        ),
        (
            with(hello(), json!({"retrieval": {"min_score": "high"}})),
            400,
            invalid,
            "retrieval.min_score",
        ),
        (
            with(hello(), json!({"retrieval": {"filter": [1]}})),
            400,
            invalid,
            "retrieval.filter",
        ),
        (
            with(
                hello(),
                json!({"retrieval": {"filter": {"type": "not", "filter": {"type": "gt", "key": "year", "value": true}}}}),
            ),
            400,
            invalid,
            "retrieval.filter.filter.value",
        ),
        (
            with(
                hello(),
                json!({"retrieval": {"filter": {"type": "eq", "key": "$document", "value": "x"}}}),
            ),
            400,
            invalid,
            "retrieval.filter.key",
        ),
        (
            with(hello(), json!({"retrieval": {"collection": "elsewhere"}})),
            404,
            "collection_not_found",
            "retrieval.collection",
        ),
        (
            with(
                hello(),
                json!({"retrieval": {"forced": true, "enabled": false}}),
            ),
            400,
            invalid,
            "retrieval.forced",
        ),
        (
            with(hello(), json!({"stream_options": {}})),
            400,
            invalid,
            "stream_options",
        ),
    ];
    for (body, status, code, param) in cases {
        expect(&server, body, status, code, Some(param)).await;
    }
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "unheard"}}});
    let deep = (0..64).fold(json!({"const": 1}), |inner, _| json!({"items": inner}));
    let deep = json!({"type": "json_schema", "json_schema": {"schema": deep}});
    let not_compiling = [
        (
            json!({"response_format": deep}),
            "response_format.json_schema.schema",
            "65 values in one another, but may have at most 64",
        ),
        (
            json!({"response_format": schema}),
            "response_format.json_schema.schema",
            "unheard",
        ),
        (
            json!({"structured_outputs": {"regex": "(a"}}),
            "structured_outputs.regex",
            "(a",
        ),
        (
            json!({"structured_outputs": {"grammar": "start: word"}}),
            "structured_outputs.grammar",
            "word",
        ),
        (
            json!({"structured_outputs": {"choice": []}}),
            "structured_outputs.choice",
            "at least one",
        ),
        (
            json!({"structured_outputs": {"choice": vec!["Lima"; 1_001]}}),
            "structured_outputs.choice",
            "1001 texts, but may have at most 1000",
        ),
    ];
    for (fields, param, words) in not_compiling {
        let body = with(hello(), fields);
        let (_, error) = server.refused(&body).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        expect(&server, body, 400, invalid, Some(param)).await;
    }
    // The message is for people: it says what was found.
    let (_, error) = server
        .refused(&with(hello(), json!({"temperature": 3})))
        .await;
    assert_eq!(
        error["message"],
        "temperature: is 3, but must be between 0 and 2"
    );
}

#[tokio::test]
async fn a_context_longer_than_the_models_is_refused_before_any_forward() {
    let files = Files::new();
    let server = files.serve().await;
    let body = question(&"Lima? ".repeat(CONTEXT));
    expect(
        &server,
        body,
        400,
        "context_length_exceeded",
        Some("messages"),
    )
    .await;
    assert_eq!(server.forwarded().await, [0.0; 4]);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_told_where() {
    let files = Files::new();
    let server = files.serve().await;
    let url = format!("{}/v1/chat/completions", server.url);
    let post = |content_type: &'static str, body: String| {
        let request = server.http.post(&url).header("content-type", content_type);
        async move {
            let response = request.body(body).send().await.unwrap();
            let status = response.status();
            (status, envelope(response.json().await.unwrap()))
        }
    };
    let (status, error) = post("application/json", "{\"model\":\n  onegen}".into()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["code"], "invalid_json");
    let message = error["message"].as_str().unwrap();
    assert!(message.ends_with("line 2 column 3"), "{message}");

    let (status, error) = post("application/json", String::new()).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_json"))
    );

    let (status, error) = post("text/plain", "{}".into()).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(error["code"], "invalid_content_type");

    let (status, error) = post("application/json", " ".repeat(5 << 20)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(error["code"], "body_too_large");
}

#[tokio::test]
async fn a_route_that_is_not_there_and_a_wrong_method_get_the_envelope_too() {
    let files = Files::new();
    let server = files.serve().await;
    let response = server.get("/v1/nothing").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let error = envelope(response.json().await.unwrap());
    assert_eq!(error["code"], "route_not_found");

    let response = server.get("/v1/chat/completions").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    assert!(response.headers().contains_key("x-request-id"));
    let error = envelope(response.json().await.unwrap());
    assert_eq!(error["code"], "method_not_allowed");
}

#[tokio::test]
async fn one_request_too_many_is_told_at_once_to_come_again() {
    let files = Files::new();
    let server = files.serve().await;
    let fields = json!({"stream": true, "logit_bias": files.bias(false), "max_tokens": 3500});
    let body = with(question("Hello!"), fields);
    // 64 places in the batch and 256 in the queue.
    let responses = futures::future::join_all((0..400).map(|_| server.send(&body))).await;
    let (refused, accepted): (Vec<_>, Vec<_>) = responses
        .into_iter()
        .partition(|response| response.status() == StatusCode::TOO_MANY_REQUESTS);
    assert!(accepted.len() >= 320, "{} accepted", accepted.len());
    assert!(accepted.iter().all(|r| r.status() == StatusCode::OK));
    let refused = refused.into_iter().next().unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    let error = envelope(refused.json().await.unwrap());
    assert_eq!(error["type"], "rate_limit_error");
    assert_eq!(error["code"], "overloaded");
}

#[tokio::test]
async fn a_text_without_any_token_is_refused_where_it_would_be_embedded() {
    // Some tokenizers put a space before every text.
    for spaced in [true, false] {
        refuses_a_text_without_any_token(spaced).await;
    }
}

async fn refuses_a_text_without_any_token(spaced: bool) {
    let files = Files::new();
    // The spelling of the byte 1, a control character.
    models::edit_json(files.model(), "tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocabulary.remove("\u{101}").unwrap();
        tokenizer["pre_tokenizer"]["add_prefix_space"] = spaced.into();
    });
    let server = files.serve().await;
    let odd = "\u{1}\u{1}";
    let embed =
        |input: Value, kind: &str| json!({"model": "onegen", "input": input, "input_type": kind});
    let search = "/v1/vector_stores/default/search";
    for (method, path, body, param) in [
        (
            "POST",
            "/v1/embeddings",
            embed(json!(odd), "document"),
            "input",
        ),
        (
            "POST",
            "/v1/embeddings",
            embed(json!(["a", odd]), "document"),
            "input[1]",
        ),
        (
            "POST",
            "/v1/embeddings",
            embed(json!([odd, "a"]), "query"),
            "input[0]",
        ),
        ("POST", search, json!({"query": odd}), "query"),
        (
            "PUT",
            "/v1/documents",
            json!({"id": "odd", "text": odd}),
            "text",
        ),
    ] {
        let (status, code, at, message) = server.refused_at(method, path, body).await;
        assert_eq!(
            (status, code.as_str(), at),
            (400, "invalid_value", json!(param)),
            "{message}"
        );
        assert!(message.contains("no token"), "{message}");
    }
    // Where something else is beside it, it is left out as in any other text.
    for input in ["\u{1}a", "\u{2}"] {
        server
            .done("POST", "/v1/embeddings", embed(json!(input), "document"))
            .await;
    }
    let answer = server
        .complete(&with(question(odd), json!({"max_tokens": 1})))
        .await;
    assert_eq!(answer["usage"]["completion_tokens"], 1);
    let prompt = json!({"model": "onegen", "prompt": odd, "max_tokens": 1});
    if !spaced {
        let (status, _, at, _) = server.refused_at("POST", "/v1/completions", prompt).await;
        assert_eq!((status, at), (400, json!("prompt")));
    }
}
