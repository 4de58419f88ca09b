//! The Responses API, with the shipped model.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common::almanac::{Almanac, country};
use crate::common::{cached_input, count, with};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";

fn request(input: Value, fields: Value) -> Value {
    with(json!({"model": "onegen", "input": input}), fields)
}

fn text(response: &Value) -> &str {
    let output = response["output"].as_array().unwrap();
    let message = output
        .iter()
        .find(|item| item["type"] == "message")
        .unwrap();
    message["content"][0]["text"].as_str().unwrap()
}

/// The events of a streamed response, each of whose names is its type, in order.
async fn stream(server: &Almanac, body: Value) -> Vec<Value> {
    let body = with(body, json!({"stream": true}));
    let url = format!("{}{RESPONSES}", server.url);
    let response = server.http.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let sse = response.text().await.unwrap();
    let events = sse.trim_end().split("\n\n").enumerate().map(|(at, event)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        assert_eq!(data["sequence_number"], at);
        data
    });
    events.collect()
}

#[tokio::test]
async fn a_response_shows_its_search_and_cites_the_passage() {
    let server = Almanac::start().await;
    let response = server
        .done("POST", RESPONSES, request(json!(PERU), json!({})))
        .await;
    assert_eq!(response["object"], "response");
    assert_eq!(response["status"], "completed");
    assert!(response["id"].as_str().unwrap().starts_with("resp_2_"));
    assert_eq!(response["tool_choice"], "auto");
    assert!(text(&response).contains("Lima"), "{response}");
    let [search, message] = response["output"].as_array().unwrap().as_slice() else {
        panic!("{response}");
    };
    assert_eq!(search["type"], "file_search_call");
    assert_eq!(search["status"], "completed");
    assert_eq!(search["results"], Value::Null);
    assert_eq!(search["onegen"]["query_tokens_reencoded"], 0);
    let citation = &message["content"][0]["annotations"][0];
    assert_eq!(citation["type"], "url_citation");
    assert_eq!(citation["title"], "Peru");
    let usage = &response["usage"];
    let sum = count(&usage["input_tokens"]) + count(&usage["output_tokens"]);
    assert_eq!(count(&usage["total_tokens"]), sum);

    let include = json!({"include": ["file_search_call.results"]});
    let response = server
        .done("POST", RESPONSES, request(json!(PERU), include))
        .await;
    let result = &response["output"][0]["results"][0];
    assert_eq!(result["file_id"], "country-peru");
    assert_eq!(result["text"], country("Peru")["text"]);
}

#[tokio::test]
async fn a_stream_tells_of_each_item_and_ends_with_the_response_that_comes_whole() {
    let server = Almanac::start().await;
    let whole = server
        .done("POST", RESPONSES, request(json!(PERU), json!({})))
        .await;
    let events = stream(&server, request(json!(PERU), json!({}))).await;
    let mut kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, expected);
    let deltas = events.iter().filter_map(|event| event["delta"].as_str());
    assert_eq!(deltas.collect::<String>(), text(&whole));
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"].as_array().unwrap().len(), 2);
    assert_eq!(text(last), text(&whole));
    assert_eq!(last["id"], events[0]["response"]["id"]);
    for event in &events {
        let Some(at) = event["output_index"].as_u64() else {
            continue;
        };
        let item = &last["output"][at as usize];
        let id = event.get("item_id").unwrap_or(&event["item"]["id"]);
        assert_eq!(*id, item["id"]);
        if event["type"] == "response.output_item.done" {
            assert_eq!(event["item"], *item);
        }
    }
}

#[tokio::test]
async fn a_response_goes_on_after_another_by_its_id_by_conversation_and_by_its_items() {
    let server = Almanac::start().await;
    let first = server
        .done("POST", RESPONSES, request(json!(PERU), json!({})))
        .await;
    let total = count(&first["usage"]["total_tokens"]);
    let previous = json!({"previous_response_id": first["id"]});
    let second = server
        .done("POST", RESPONSES, request(json!(CURRENCY), previous))
        .await;
    assert!(text(&second).contains("sol"), "{second}");
    assert_eq!(cached_input(&second), total - 1);
    assert_eq!(second["conversation"], first["conversation"]);

    let conversation = json!({"conversation": first["conversation"]});
    let third = server
        .done("POST", RESPONSES, request(json!("Thanks!"), conversation))
        .await;
    assert_eq!(third["conversation"], first["conversation"]);

    // Like clients that keep all responses and send them back.
    let first = server
        .done("POST", RESPONSES, request(json!(PERU), json!({})))
        .await;
    let mut items = vec![json!({"role": "user", "content": PERU})];
    items.extend(first["output"].as_array().unwrap().clone());
    items.push(json!({"role": "user", "content": [{"type": "input_text", "text": CURRENCY}]}));
    let second = server
        .done("POST", RESPONSES, request(json!(items), json!({})))
        .await;
    assert_eq!(second["conversation"], first["conversation"]);
    assert!(cached_input(&second) > 0);
}

#[tokio::test]
async fn a_file_search_says_what_is_searched_and_tool_choice_whether() {
    let server = Almanac::start().await;
    let chile = json!({"type": "eq", "key": "kind", "value": "country"});
    let tool = json!({
        "type": "file_search", "vector_store_ids": ["default"], "max_num_results": 3,
        "filters": chile, "ranking_options": {"score_threshold": -1.0, "ranker": "auto"},
    });
    let include = json!(["file_search_call.results"]);
    let body = request(json!(PERU), json!({"tools": [tool], "include": include}));
    let response = server.done("POST", RESPONSES, body).await;
    assert_eq!(
        response["output"][0]["results"].as_array().unwrap().len(),
        3
    );
    assert_eq!(response["tools"], json!([tool]));
    let none = request(json!(PERU), json!({"tool_choice": "none"}));
    let none = server.done("POST", RESPONSES, none).await;
    assert_eq!(none["output"].as_array().unwrap().len(), 1);
    for required in [json!("required"), json!({"type": "file_search"})] {
        let body = request(json!("Hello!"), json!({"tool_choice": required}));
        let response = server.done("POST", RESPONSES, body).await;
        assert_eq!(response["output"][0]["type"], "file_search_call");
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_incomplete() {
    let server = Almanac::start().await;
    let body = request(json!(PERU), json!({"max_output_tokens": 3}));
    let response = server.done("POST", RESPONSES, body.clone()).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(
        response["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    let last = stream(&server, body).await.pop().unwrap();
    assert_eq!(last["type"], "response.incomplete");
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_its_name() {
    let server = Almanac::start().await;
    let tool = |fields: Value| {
        let plain = json!({"type": "file_search", "vector_store_ids": ["default"]});
        json!({"tools": [with(plain, fields)]})
    };
    let (invalid, unsupported) = ("invalid_value", "unsupported_parameter");
    for (fields, code, param) in [
        (json!({"background": true}), unsupported, "background"),
        (
            json!({"reasoning": {"effort": "high"}}),
            unsupported,
            "reasoning",
        ),
        (
            json!({"text": {"verbosity": "high"}}),
            unsupported,
            "text.verbosity",
        ),
        (json!({"input": []}), invalid, "input"),
        (
            json!({"input": [{"role": "assistant", "content": "x"}]}),
            invalid,
            "input",
        ),
        (
            json!({"input": [{"type": "item_reference"}]}),
            unsupported,
            "input[0].type \"item_reference\"",
        ),
        (json!({"tool_choice": "sometimes"}), invalid, "tool_choice"),
        (
            json!({"previous_response_id": "resp_x", "conversation": "conv_x"}),
            invalid,
            "previous_response_id",
        ),
        (
            tool(json!({"type": "web_search"})),
            unsupported,
            "tools[0].type \"web_search\"",
        ),
        (
            tool(json!({"vector_store_ids": []})),
            invalid,
            "tools[0].vector_store_ids",
        ),
        (
            tool(json!({"vector_store_ids": ["a", "b"]})),
            invalid,
            "tools[0].vector_store_ids",
        ),
        (
            json!({"max_output_tokens": 0}),
            invalid,
            "max_output_tokens",
        ),
        (
            json!({"input": "x ".repeat(3000)}),
            "context_length_exceeded",
            "input",
        ),
    ] {
        let refused = server
            .refused_at("POST", RESPONSES, request(json!("Hello!"), fields))
            .await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (400, code, json!(param)),
            "{}",
            refused.3
        );
    }
    let nowhere = tool(json!({"vector_store_ids": ["atlantis"]}));
    let refused = server
        .refused_at("POST", RESPONSES, request(json!("x"), nowhere))
        .await;
    assert_eq!((refused.0, &*refused.1), (404, "collection_not_found"));
    let neutral = json!({
        "store": true, "text": {"format": {"type": "text"}}, "truncation": "disabled",
        "parallel_tool_calls": true, "tools": [], "reasoning": null, "user": "someone",
    });
    server
        .done("POST", RESPONSES, request(json!("Hello!"), neutral))
        .await;
}
