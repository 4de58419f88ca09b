//! Completions of plain text: whole and streamed.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::Almanac;
use crate::common::{Files, chunks, count, with};
use onegen_engine::{LoadOptions, Model};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

fn prompt(prompt: Value, fields: Value) -> Value {
    with(json!({"model": "onegen", "prompt": prompt}), fields)
}

/// The events of a streamed completion.
async fn stream(server: &crate::common::Server, body: Value) -> Vec<Value> {
    let body = with(body, json!({"stream": true}));
    let url = format!("{}{COMPLETIONS}", server.url);
    let response = server.http.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    chunks(&response.text().await.unwrap())
}

#[tokio::test]
async fn a_text_is_gone_on_with_as_it_stands() {
    let files = Files::new();
    let server = files.serve().await;
    let plain = files.without_retrieval(5);
    let completion = server
        .done("POST", COMPLETIONS, prompt(json!("Lima is"), plain))
        .await;
    assert_eq!(completion["object"], "text_completion");
    assert!(completion["id"].as_str().unwrap().starts_with("cmpl-"));
    let choice = &completion["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"], Value::Null);
    assert_eq!(choice["onegen"]["retrievals"], json!([]));
    let model = Model::load(files.model(), &LoadOptions::default()).unwrap();
    let ids = model.tokens().encode_text("Lima is").unwrap();
    assert_eq!(count(&completion["usage"]["prompt_tokens"]), ids.len());
    assert_eq!(completion["usage"]["completion_tokens"], 5);
    // A completion belongs to no conversation, and leaves none behind.
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
}

#[tokio::test]
async fn white_space_at_the_start_of_a_completion_is_kept() {
    let files = Files::new();
    let server = files.serve().await;
    let model = Model::load(files.model(), &LoadOptions::default()).unwrap();
    let tokens = model.tokens();
    let space = tokens.encode_plain(" ").unwrap();
    let mut bias = files.bias(false);
    bias[space[0].to_string()] = 100.into();
    let body = prompt(
        json!("Lima is"),
        json!({"max_tokens": 1, "logit_bias": bias}),
    );
    let completion = server.done("POST", COMPLETIONS, body).await;
    assert_eq!(completion["choices"][0]["text"], " ");
}

#[tokio::test]
async fn a_stream_of_several_prompts_is_what_each_alone_is_whole() {
    let files = Files::new();
    let server = files.serve().await;
    let fields = json!({"max_tokens": 12, "logit_bias": files.bias(true)});
    let prompts = ["Lima is", "Gold is an element.", "The capital of Chile"];
    let whole = server
        .done("POST", COMPLETIONS, prompt(json!(prompts), fields.clone()))
        .await;
    let usage = json!({"stream_options": {"include_usage": true}});
    let events = stream(&server, prompt(json!(prompts), with(fields.clone(), usage))).await;
    let (last, events) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"]["total_tokens"],
        whole["usage"]["total_tokens"]
    );
    for (index, text) in prompts.iter().enumerate() {
        let alone = server
            .done("POST", COMPLETIONS, prompt(json!(text), fields.clone()))
            .await;
        let choice = &whole["choices"][index];
        assert_eq!(choice["index"], index);
        assert_eq!(choice["text"], alone["choices"][0]["text"]);
        let receipts = choice["onegen"]["retrievals"].as_array().unwrap();
        assert!(!receipts.is_empty());
        assert_eq!(receipts[0]["query_tokens_reencoded"], 0);
        let own = events.iter().map(|event| &event["choices"][0]);
        let own: Vec<&Value> = own.filter(|choice| choice["index"] == index).collect();
        let streamed: String = own.iter().map(|c| c["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, choice["text"].as_str().unwrap());
        let found = own
            .iter()
            .flat_map(|c| c["onegen"]["retrievals"].as_array().unwrap());
        let found: Vec<&Value> = found.map(|receipt| &receipt["passages"]).collect();
        let expected: Vec<&Value> = receipts
            .iter()
            .map(|receipt| &receipt["passages"])
            .collect();
        assert_eq!(found, expected);
        assert_eq!(
            own.last().unwrap()["finish_reason"],
            choice["finish_reason"]
        );
        assert!(
            own[..own.len() - 1]
                .iter()
                .all(|c| c["finish_reason"].is_null())
        );
    }
}

#[tokio::test]
async fn the_shipped_model_reads_a_passage_for_a_plain_text_when_it_is_told_to() {
    let server = Almanac::start().await;
    let forced = json!({"retrieval": {"forced": true, "collection": "default"}});
    let completion = server
        .done(
            "POST",
            COMPLETIONS,
            prompt(json!("What is the capital of Peru?"), forced),
        )
        .await;
    let receipts = completion["choices"][0]["onegen"]["retrievals"]
        .as_array()
        .unwrap();
    assert_eq!(receipts.len(), 1, "{completion}");
    assert_eq!(receipts[0]["collection"], "default");
    let details = &completion["usage"]["prompt_tokens_details"];
    assert_eq!(details["passage_tokens"], receipts[0]["splice_tokens"]);
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_its_name() {
    let files = Files::new();
    let server = files.serve().await;
    let long = "word ".repeat(6000);
    for (fields, code, param) in [
        (json!({"echo": true}), "unsupported_parameter", "echo"),
        (json!({"suffix": "."}), "unsupported_parameter", "suffix"),
        (json!({"best_of": 2}), "unsupported_parameter", "best_of"),
        (json!({"n": 2}), "unsupported_parameter", "n"),
        (json!({"logprobs": 1}), "unsupported_parameter", "logprobs"),
        (
            json!({"conversation": "conv_1"}),
            "unsupported_parameter",
            "conversation",
        ),
        (json!({"prompt": null}), "invalid_value", "prompt"),
        (json!({"prompt": ""}), "invalid_value", "prompt"),
        (json!({"prompt": []}), "invalid_value", "prompt"),
        (json!({"prompt": ["x", ""]}), "invalid_value", "prompt[1]"),
        (json!({"prompt": [1, 2]}), "invalid_value", "prompt[0]"),
        (json!({"prompt": vec!["x"; 17]}), "invalid_value", "prompt"),
        (
            json!({"stop_token_ids": [4000000]}),
            "invalid_value",
            "stop_token_ids",
        ),
        (json!({"max_tokens": 0}), "invalid_value", "max_tokens"),
        (json!({"temperature": -1}), "invalid_value", "temperature"),
        (
            json!({"stream_options": {}}),
            "invalid_value",
            "stream_options",
        ),
        (
            json!({"retrieval": {"k": 0}}),
            "invalid_value",
            "retrieval.k",
        ),
        (
            json!({"prompt": ["x", long]}),
            "context_length_exceeded",
            "prompt[1]",
        ),
    ] {
        let body = with(prompt(json!("x"), json!({})), fields);
        let refused = server.refused_at("POST", COMPLETIONS, body).await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (400, code, json!(param)),
            "{}",
            refused.3
        );
    }
    let neutral = json!({"echo": false, "best_of": 1, "n": 1, "suffix": null, "logprobs": null});
    server
        .done(
            "POST",
            COMPLETIONS,
            with(prompt(json!("x"), json!({})), neutral),
        )
        .await;
}
