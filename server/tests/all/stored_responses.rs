//! Responses that are fetched again, continued, or not stored, with the shipped model.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::Almanac;
use crate::common::{Files, Server, cached_input, count, total, with};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";
const LANGUAGE: &str = "Which language do they speak?";
const RESULTS: &str = "file_search_call.results";

async fn respond(server: &Almanac, input: &str, fields: Value) -> Value {
    let body = with(json!({"model": "onegen", "input": input}), fields);
    server.done("POST", RESPONSES, body).await
}

async fn after(server: &Almanac, previous: &Value, input: &str) -> Value {
    respond(
        server,
        input,
        json!({"previous_response_id": previous["id"]}),
    )
    .await
}

fn path(response: &Value) -> String {
    format!("{RESPONSES}/{}", response["id"].as_str().unwrap())
}

fn text(response: &Value) -> &str {
    let output = response["output"].as_array().unwrap();
    output.last().unwrap()["content"][0]["text"]
        .as_str()
        .unwrap()
}

fn conversation(response: &Value) -> &str {
    response["conversation"]["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_response_is_there_again_as_it_was_also_after_a_restart() {
    let server = Almanac::start().await;
    let first = respond(&server, PERU, json!({"metadata": {"a": "b"}})).await;
    assert_eq!(first["store"], true);
    assert_eq!(first["text"], json!({"format": {"type": "text"}}));
    let again = server.done("GET", &path(&first), Value::Null).await;
    assert_eq!(again, first);

    let asked = json!({"include": [RESULTS], "previous_response_id": first["id"], "stream": true});
    let body = with(json!({"model": "onegen", "input": CURRENCY}), asked);
    let url = format!("{}{RESPONSES}", server.url);
    let stream = server.http.post(url).json(&body).send().await.unwrap();
    let stream = stream.text().await.unwrap();
    let last = stream.trim_end().rsplit("data: ").next().unwrap();
    let second = serde_json::from_str::<Value>(last).unwrap()["response"].clone();

    let server = server.restart().await;
    assert_eq!(server.done("GET", &path(&first), Value::Null).await, first);
    let with_results = format!("{}?include[]={RESULTS}", path(&second));
    let with_results = server.done("GET", &with_results, Value::Null).await;
    assert_eq!(with_results, second);
    assert!(second["output"][0]["results"][0]["text"].is_string());

    // Texts of passages are looked up, not kept.
    let read = second["output"][0]["results"][0]["file_id"]
        .as_str()
        .unwrap();
    let document = format!("/v1/documents/{read}");
    server.done("DELETE", &document, Value::Null).await;
    let gone = format!("{}?include={RESULTS}", path(&second));
    let gone = server.done("GET", &gone, Value::Null).await;
    assert_eq!(gone["output"][0]["results"], json!([]));
    assert_eq!(gone["output"][1], second["output"][1]);
    let streamed = format!("{}?stream=true", path(&first));
    let refused = server.refused_at("GET", &streamed, Value::Null).await;
    assert_eq!(refused.2, "stream");
}

#[tokio::test]
async fn the_messages_that_a_response_was_asked_with_are_listed() {
    let server = Almanac::start().await;
    let first = respond(&server, PERU, json!({"instructions": "Be brief."})).await;
    let items = |list: Value| -> Vec<(Value, Value)> {
        let data = list["data"].as_array().unwrap().clone().into_iter();
        data.map(|item| (item["role"].clone(), item["content"][0]["text"].clone()))
            .collect()
    };
    let listed = server
        .done("GET", &format!("{}/input_items", path(&first)), Value::Null)
        .await;
    assert_eq!(items(listed), [(json!("user"), json!(PERU))]);
    let sent = json!([
        {"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": CURRENCY},
    ]);
    let fields = json!({"input": sent, "previous_response_id": first["id"]});
    let second = respond(&server, "", fields).await;
    let listed = server
        .done(
            "GET",
            &format!("{}/input_items?order=asc", path(&second)),
            Value::Null,
        )
        .await;
    let expected = [
        ("user", "Hello!"),
        ("assistant", "Hello."),
        ("user", CURRENCY),
    ];
    assert_eq!(
        items(listed),
        expected.map(|(role, text)| (json!(role), json!(text)))
    );
    let page = format!("{}/input_items?limit=1", path(&second));
    let page = server.done("GET", &page, Value::Null).await;
    assert_eq!(page["has_more"], true);
    assert_eq!(items(page), [(json!("user"), json!(CURRENCY))]);
}

#[tokio::test]
async fn a_deleted_response_is_not_there_and_not_gone_on_after_but_its_conversation_is() {
    let server = Almanac::start().await;
    let first = respond(&server, PERU, json!({})).await;
    let second = after(&server, &first, CURRENCY).await;
    let deleted = server.done("DELETE", &path(&second), Value::Null).await;
    let expected = json!({"id": second["id"], "object": "response", "deleted": true});
    assert_eq!(deleted, expected);
    let server = server.restart().await;
    for (method, path, body, param) in [
        ("GET", path(&second), Value::Null, "id"),
        ("DELETE", path(&second), Value::Null, "id"),
        (
            "GET",
            format!("{}/input_items", path(&second)),
            Value::Null,
            "id",
        ),
        ("GET", format!("{RESPONSES}/resp_x"), Value::Null, "id"),
        (
            "POST",
            RESPONSES.to_owned(),
            json!({"model": "onegen", "input": "x", "previous_response_id": second["id"]}),
            "previous_response_id",
        ),
    ] {
        let (status, code, at, _) = server.refused_at(method, &path, body).await;
        assert_eq!(
            (status, &*code, at),
            (404, "response_not_found", json!(param))
        );
    }
    let fields = json!({"conversation": conversation(&first)});
    let third = respond(&server, LANGUAGE, fields).await;
    assert_eq!(cached_input(&third), total(&second) - 1);
    // A deleted conversation is deleted together with all its responses.
    let gone = format!("/v1/conversations/{}", conversation(&first));
    server.done("DELETE", &gone, Value::Null).await;
    assert_eq!(server.get(&path(&first)).await.status(), 404);
}

#[tokio::test]
async fn going_on_after_an_earlier_response_forks_the_conversation_there() {
    let server = Almanac::start().await;
    let first = respond(&server, PERU, json!({})).await;
    let second = after(&server, &first, CURRENCY).await;
    assert_eq!(conversation(&second), conversation(&first));
    let third = after(&server, &second, LANGUAGE).await;

    // The same question at the same place gets the same answer from the same passages, without forwarding them
    // again.
    let other = after(&server, &first, CURRENCY).await;
    assert_ne!(conversation(&other), conversation(&first));
    assert_eq!(text(&other), text(&second));
    assert_eq!(cached_input(&other), total(&first));
    let path = format!("/v1/conversations/{}", conversation(&other));
    let now = server.done("GET", &path, Value::Null).await;
    assert_eq!(now["onegen"]["messages"], 4);
    // Each fork continues independently.
    let fourth = after(&server, &other, LANGUAGE).await;
    assert_eq!(conversation(&fourth), conversation(&other));
    assert_eq!(text(&fourth), text(&third));

    // In a restarted server, the fork begins with what is on the disk.
    let server = server.restart().await;
    let again = after(&server, &first, CURRENCY).await;
    assert_eq!(text(&again), text(&second));
}

#[tokio::test]
async fn a_response_that_is_not_stored_leaves_nothing_behind() {
    let server = Almanac::start().await;
    let unkept = json!({"store": false});
    let first = respond(&server, PERU, unkept.clone()).await;
    assert!(text(&first).contains("Lima"));
    assert_eq!(
        (&first["store"], &first["conversation"]),
        (&json!(false), &Value::Null)
    );
    let name = first["id"].as_str().unwrap().rsplit('_').next().unwrap();
    let conversation_path = format!("/v1/conversations/conv_{name}");
    for path in [path(&first), conversation_path] {
        assert_eq!(server.get(&path).await.status(), 404, "{path}");
    }
    // Nor is it recognised by its messages.
    let sent = json!([
        {"role": "user", "content": PERU}, {"role": "assistant", "content": text(&first)},
        {"role": "user", "content": CURRENCY},
    ]);
    let again = respond(&server, "", with(unkept.clone(), json!({"input": sent}))).await;
    let passages =
        |response: &Value| count(&response["usage"]["input_tokens_details"]["passage_tokens"]);
    assert_eq!(cached_input(&again), 0);

    // A response after a stored one reads the same passages, and does not change the stored one.
    let stored = respond(&server, PERU, json!({})).await;
    let previous = json!({"previous_response_id": stored["id"]});
    let aside = respond(&server, CURRENCY, with(unkept.clone(), previous)).await;
    assert_eq!(cached_input(&aside), total(&stored) - 1);
    let aside = respond(&server, "", with(unkept.clone(), json!({"input": sent}))).await;
    assert_eq!(cached_input(&aside), total(&stored) - 1);
    assert!(passages(&aside) > 0);
    let next = after(&server, &stored, CURRENCY).await;
    assert_eq!(conversation(&next), conversation(&stored));
    assert_eq!(text(&next), text(&aside));

    // A named conversation continues, but the response cannot be fetched.
    let named = json!({"conversation": conversation(&stored)});
    let within = respond(&server, LANGUAGE, with(unkept, named)).await;
    assert_eq!(conversation(&within), conversation(&stored));
    assert_eq!(server.get(&path(&within)).await.status(), 404);
    let path = format!("/v1/conversations/{}", conversation(&stored));
    let now = server.done("GET", &path, Value::Null).await;
    assert_eq!(now["onegen"]["messages"], 6);
}

#[tokio::test]
async fn a_response_is_there_for_its_owner_only() {
    let files = Files::new();
    let (keys, [alice, bob]) = files.write_keys(["alice", "bob"]);
    let config = files.config(&["--api-keys", keys.to_str().unwrap()]);
    let server = Server::start(&config).await;
    let (alice, bob) = (server.with_key(&alice), server.with_key(&bob));
    let short = json!({"max_output_tokens": 4, "tool_choice": "none"});
    let asked = with(json!({"model": "onegen", "input": "Hello!"}), short);
    let response = alice.done("POST", RESPONSES, asked.clone()).await;
    let items = format!("{}/input_items", path(&response));
    let previous = json!({"previous_response_id": response["id"]});
    for (method, path, body) in [
        ("GET", path(&response), Value::Null),
        ("GET", items, Value::Null),
        ("DELETE", path(&response), Value::Null),
        ("POST", RESPONSES.to_owned(), with(asked, previous)),
    ] {
        let (status, code, ..) = bob.refused_at(method, &path, body).await;
        assert_eq!(
            (status, &*code),
            (404, "response_not_found"),
            "{method} {path}"
        );
    }
    let again = alice.done("GET", &path(&response), Value::Null).await;
    assert_eq!(again, response);
}

#[tokio::test]
async fn the_text_of_a_response_is_of_the_form_that_was_asked_for() {
    let server = Almanac::start().await;
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["capital"],
        "properties": {"capital": {"type": "string", "enum": ["Lima", "Quito"]}},
    });
    let format = json!({"type": "json_schema", "name": "answer", "strict": true, "schema": schema});
    let response = respond(&server, PERU, json!({"text": {"format": format}})).await;
    let value: Value = serde_json::from_str(text(&response)).unwrap();
    assert!(
        ["Lima", "Quito"]
            .map(Value::from)
            .contains(&value["capital"]),
        "{value}"
    );
    assert_eq!(response["text"]["format"], format);
    let report = json!({"valid": true, "error": null, "not_enforced": [], "not_checked": []});
    assert_eq!(response["onegen"]["schema"], report);
    let object = json!({"text": {"format": {"type": "json_object"}}, "max_output_tokens": 200});
    let response = respond(&server, PERU, object).await;
    assert!(text(&response).starts_with('{'), "{response}");

    let broken = json!({"type": "json_schema", "schema": {"type": "nothing"}});
    for (format, code, param) in [
        (broken, "invalid_value", "text.format.schema"),
        (
            json!({"type": "json_schema"}),
            "invalid_value",
            "text.format.schema",
        ),
        (json!({"type": "xml"}), "invalid_value", "text.format.type"),
    ] {
        let fields = json!({"model": "onegen", "input": PERU, "text": {"format": format}});
        let refused = server.refused_at("POST", RESPONSES, fields).await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (400, code, json!(param))
        );
    }
}

#[tokio::test]
async fn the_tokens_of_a_response_are_counted_before_it_is_written() {
    let server = Almanac::start().await;
    let count_tokens = async |body: Value| {
        let path = format!("{RESPONSES}/input_tokens");
        let counted = server.done("POST", &path, body).await;
        assert_eq!(counted["object"], "response.input_tokens");
        count(&counted["input_tokens"])
    };
    let new = json!({"input": PERU, "instructions": "Be brief."});
    let before = count_tokens(new.clone()).await;
    let forwarded = server.forwarded().await;
    let first = respond(&server, PERU, json!({"instructions": "Be brief."})).await;
    let usage = &first["usage"];
    let passages = count(&usage["input_tokens_details"]["passage_tokens"]);
    assert_eq!(before, count(&usage["input_tokens"]) - passages);
    assert_ne!(forwarded, server.forwarded().await);

    let next = json!({
        "input": CURRENCY, "previous_response_id": first["id"], "instructions": "Be brief.",
    });
    let before = count_tokens(next.clone()).await;
    let second = respond(&server, CURRENCY, with(next, json!({"input": CURRENCY}))).await;
    let usage = &second["usage"];
    let passages = count(&usage["input_tokens_details"]["passage_tokens"]);
    assert_eq!(before, count(&usage["input_tokens"]) - passages);

    let cancel = format!("{}/cancel", path(&first));
    let refused = server.refused_at("POST", &cancel, Value::Null).await;
    assert_eq!((refused.0, refused.2), (400, json!("id")));
    let unknown = format!("{RESPONSES}/resp_9_none/cancel");
    assert_eq!(
        server.refused_at("POST", &unknown, Value::Null).await.0,
        404
    );
}
