//! Conversations by their ids, with the shipped model.
#![allow(clippy::unwrap_used, clippy::panic)]

use crate::common::almanac::{Almanac, country, zembla};
use crate::common::{by_id, cached, content, conversation, question, total, with};
use serde_json::{Value, json};

const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";

async fn items(server: &Almanac, id: &str, query: &str) -> Value {
    let path = format!("/v1/conversations/{id}/items{query}");
    server.done("GET", &path, Value::Null).await
}

fn ids(list: &Value) -> Vec<&str> {
    let data = list["data"].as_array().unwrap();
    data.iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_conversation_that_was_created_is_talked_in_and_known_after_a_restart() {
    let server = Almanac::start().await;
    let metadata = json!({"topic": "countries"});
    let created = server
        .done("POST", "/v1/conversations", json!({"metadata": metadata}))
        .await;
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("conv_"));
    assert!(created["created_at"].as_u64().unwrap() > 1_700_000_000);
    let expected = json!({
        "id": id, "object": "conversation", "created_at": created["created_at"],
        "metadata": metadata, "onegen": {"messages": 0, "gone_documents": []},
    });
    assert_eq!(created, expected);
    assert_eq!(items(&server, id, "").await["data"], json!([]));

    let server = server.restart().await;
    let first = server.complete(&by_id(id, PERU)).await;
    assert_eq!(conversation(&first), id);
    assert!(content(&first).contains("Lima"), "{first}");
    let second = server.complete(&by_id(id, CURRENCY)).await;
    assert_eq!(cached(&second), total(&first) - 1);
    let path = format!("/v1/conversations/{id}");
    let now = server.done("GET", &path, Value::Null).await;
    let onegen = json!({"messages": 4, "gone_documents": []});
    assert_eq!(now, with(created.clone(), json!({"onegen": onegen})));
}

#[tokio::test]
async fn what_was_said_before_is_part_of_the_first_turn() {
    let server = Almanac::start().await;
    let said = json!([
        {"type": "message", "role": "user", "content": PERU},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Lima."}]},
    ]);
    let created = server
        .done("POST", "/v1/conversations", json!({"items": said}))
        .await;
    let id = created["id"].as_str().unwrap();
    let listed = items(&server, id, "?order=asc").await;
    assert_eq!(
        listed["data"][0]["content"],
        json!([{"type": "input_text", "text": PERU}])
    );
    let spoken = json!([{"type": "output_text", "text": "Lima.", "annotations": []}]);
    assert_eq!(listed["data"][1]["content"], spoken);
    let answer = server.complete(&by_id(id, CURRENCY)).await;
    assert!(content(&answer).contains("sol"), "{answer}");
    let anew = json!({"model": "onegen", "messages": [
        {"role": "user", "content": PERU}, {"role": "assistant", "content": "Lima."},
        {"role": "user", "content": CURRENCY},
    ]});
    let anew = server.complete(&anew).await;
    assert_eq!(
        anew["usage"]["prompt_tokens"],
        answer["usage"]["prompt_tokens"]
    );
    // Messages alone never continue a conversation that a client has created by its id.
    assert_ne!(conversation(&anew), id);
}

#[tokio::test]
async fn items_tell_what_was_said_and_read_and_texts_of_passages_only_when_asked() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let name = id.strip_prefix("conv_").unwrap();
    let all = items(&server, id, "?order=asc").await;
    let url = "onegen://passage/country-peru";
    let text = content(&first);
    let citation = &first["choices"][0]["message"]["annotations"][0]["url_citation"];
    let expected = json!({
        "object": "list", "has_more": false,
        "first_id": format!("msg_{name}_0"), "last_id": format!("msg_{name}_1"),
        "data": [
            {
                "type": "message", "id": format!("msg_{name}_0"), "status": "completed",
                "role": "user", "content": [{"type": "input_text", "text": PERU}],
            },
            {
                "type": "onegen.retrieval", "id": format!("rtr_{name}_1_0"), "status": "completed",
                "receipt": first["onegen"]["retrievals"][0], "passage_text": null,
            },
            {
                "type": "message", "id": format!("msg_{name}_1"), "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": text, "annotations": [{
                    "type": "url_citation", "url": url, "title": "Peru",
                    "start_index": citation["start_index"], "end_index": citation["end_index"],
                }]}],
            },
        ],
    });
    assert_eq!(all, expected);
    let with_texts = items(&server, id, "?include%5B%5D=onegen.retrieval.passage_text").await;
    assert_eq!(
        with_texts["data"][1]["passage_text"],
        country("Peru")["text"]
    );
    server
        .done("DELETE", "/v1/documents/country-peru", Value::Null)
        .await;
    let gone = items(&server, id, "?include=onegen.retrieval.passage_text").await;
    assert_eq!(gone["data"][1]["passage_text"], Value::Null);
    let path = format!("/v1/conversations/{id}");
    let told = server.done("GET", &path, Value::Null).await;
    assert_eq!(told["onegen"]["gone_documents"], json!(["country-peru"]));
}

#[tokio::test]
async fn pages_of_items_put_together_are_the_whole_list_in_either_order() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    server.complete(&by_id(id, CURRENCY)).await;
    for order in ["asc", "desc"] {
        let all = items(&server, id, &format!("?order={order}&limit=100")).await;
        assert_eq!(all["data"].as_array().unwrap().len(), 6);
        let (mut pages, mut after) = (Vec::new(), String::new());
        loop {
            let page = items(&server, id, &format!("?order={order}&limit=4{after}")).await;
            pages.extend(page["data"].as_array().unwrap().clone());
            assert_eq!(page["first_id"], ids(&page)[0]);
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
            assert_eq!(ids(&page).len(), 4);
        }
        assert_eq!(json!(pages), all["data"]);
        let beyond = items(&server, id, &format!("?order={order}{after}")).await;
        assert_eq!(beyond["data"], json!([]));
        assert_eq!(beyond["last_id"], Value::Null);
    }
    let [asc, desc] = [
        items(&server, id, "?order=asc").await,
        items(&server, id, "").await,
    ];
    let reversed: Vec<_> = ids(&desc).into_iter().rev().collect();
    assert_eq!(ids(&asc), reversed);
}

#[tokio::test]
async fn a_fork_goes_on_from_the_same_tokens_and_neither_hears_of_the_other() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let path = format!("/v1/conversations/{id}/fork");
    let fork = server.done("POST", &path, Value::Null).await;
    let copy = fork["id"].as_str().unwrap();
    assert_ne!(copy, id);
    assert_eq!(fork["onegen"]["messages"], 2);
    let a = server.complete(&by_id(copy, CURRENCY)).await;
    let b = server.complete(&by_id(id, CURRENCY)).await;
    for answer in [&a, &b] {
        assert!(content(answer).contains("sol"), "{answer}");
        assert_eq!(cached(answer), total(&first) - 1);
    }
    server
        .complete(&by_id(copy, "What is the capital of Chile?"))
        .await;
    let lengths = [items(&server, copy, "").await, items(&server, id, "").await];
    assert_eq!(lengths.map(|list| ids(&list).len()), [9, 6]);
    // The copy has read the same passages as the first conversation.
    server
        .done("DELETE", "/v1/documents/country-peru", Value::Null)
        .await;
    for id in [copy, id] {
        let (status, error) = server.refused(&by_id(id, CURRENCY)).await;
        assert_eq!(status, 409);
        assert_eq!(error["code"], "conversation_holds_deleted_document");
        let path = format!("/v1/conversations/{id}/fork");
        let refused = server.refused_at("POST", &path, Value::Null).await;
        assert_eq!(refused.1, "conversation_holds_deleted_document");
    }
}

#[tokio::test]
async fn a_deleted_conversation_is_gone_by_its_id_and_by_its_messages() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let path = format!("/v1/conversations/{id}");
    let deleted = server.done("DELETE", &path, Value::Null).await;
    let told = json!({"id": id, "object": "conversation.deleted", "deleted": true});
    assert_eq!(deleted, told);
    let server = server.restart().await;
    let (status, error) = server.refused(&by_id(id, CURRENCY)).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (404, &json!("conversation_not_found"))
    );
    let back = json!({"model": "onegen", "messages": [
        {"role": "user", "content": PERU}, {"role": "assistant", "content": content(&first)},
        {"role": "user", "content": CURRENCY},
    ]});
    let afresh = server.complete(&back).await;
    assert_ne!(conversation(&afresh), id);
    assert_eq!(cached(&afresh), 0);
    for (method, more) in [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/items"),
        ("POST", "/fork"),
    ] {
        let refused = server
            .refused_at(method, &format!("{path}{more}"), Value::Null)
            .await;
        assert_eq!((refused.0, &*refused.1), (404, "conversation_not_found"));
    }
}

#[tokio::test]
async fn a_conversation_in_the_middle_of_a_turn_is_neither_deleted_nor_forked() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let long = json!({"stream": true, "min_tokens": 500, "max_tokens": 500});
    let mut turn = server.send(&with(by_id(id, CURRENCY), long)).await;
    turn.chunk().await.unwrap().unwrap();
    for (method, more) in [("DELETE", ""), ("POST", "/fork"), ("POST", "/rebuild")] {
        let path = format!("/v1/conversations/{id}{more}");
        let refused = server.refused_at(method, &path, Value::Null).await;
        assert_eq!(
            (refused.0, &*refused.1),
            (409, "conversation_busy"),
            "{method} {path}"
        );
    }
    turn.text().await.unwrap();
    let items = items(&server, id, "").await;
    let items = items["data"].as_array().unwrap().iter();
    assert_eq!(items.filter(|item| item["type"] == "message").count(), 4);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_the_field_at_fault() {
    let server = Almanac::start().await;
    let message = json!({"role": "user", "content": "Hello!"});
    let pairs: Value = (0..17)
        .map(|n| (n.to_string(), json!("x")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (body, code, param) in [
        (json!([]), "invalid_value", "body"),
        (
            json!({"items": vec![message; 21]}),
            "invalid_value",
            "items",
        ),
        (
            json!({"items": [{"role": "user"}]}),
            "invalid_value",
            "items[0].content",
        ),
        (
            json!({"items": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "unsupported_parameter",
            "items[0].content[0].type \"input_image\"",
        ),
        (
            json!({"items": [{"type": "reasoning", "role": "user", "content": ""}]}),
            "unsupported_parameter",
            "items[0].type \"reasoning\"",
        ),
        (json!({"metadata": pairs}), "invalid_value", "metadata"),
        (
            json!({"metadata": {"a": "x".repeat(513)}}),
            "invalid_value",
            "metadata.a",
        ),
        (json!({"metadata": {"a": 1}}), "invalid_value", "metadata.a"),
    ] {
        let refused = server.refused_at("POST", "/v1/conversations", body).await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (400, code, json!(param)),
            "{}",
            refused.3
        );
    }
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let created = server.done("POST", "/v1/conversations", json!({})).await;
    let id = created["id"].as_str().unwrap();
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
    ] {
        let path = format!("/v1/conversations/{id}/items?{query}");
        let refused = server.refused_at("GET", &path, Value::Null).await;
        assert_eq!((refused.0, refused.2), (400, json!(param)));
    }
    let path = format!("/v1/conversations/{id}/items?after=msg_nobody");
    let refused = server.refused_at("GET", &path, Value::Null).await;
    assert_eq!((refused.0, refused.2), (404, json!("after")));
}

#[tokio::test]
async fn a_fork_can_end_at_any_message_and_goes_on_from_there() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first).to_owned();
    let second = server.complete(&by_id(&id, CURRENCY)).await;
    let listed = items(&server, &id, "?order=asc").await;
    let all = ids(&listed);
    let [question, retrieval, answer, next, ..] = all.as_slice() else {
        panic!("{listed}");
    };
    let path = format!("/v1/conversations/{id}/fork");
    let fork = async |after: &str| {
        let fork = server.done("POST", &path, json!({"after": after})).await;
        fork["id"].as_str().unwrap().to_owned()
    };

    // After the answer: what was read for it is held.
    let copy = fork(answer).await;
    assert_eq!(ids(&items(&server, &copy, "").await).len(), 3);
    let again = server.complete(&by_id(&copy, CURRENCY)).await;
    assert_eq!(content(&again), content(&second));
    assert_eq!(cached(&again), total(&first));
    // After the next question, which the copy's next turn encodes.
    let copy = fork(next).await;
    assert_eq!(ids(&items(&server, &copy, "").await).len(), 4);
    let further = server.complete(&by_id(&copy, CURRENCY)).await;
    assert_eq!(cached(&further), total(&first));
    assert!(content(&further).contains("sol"), "{further}");
    // Before the first answer: nothing was forwarded yet.
    let copy = fork(question).await;
    assert_eq!(cached(&server.complete(&by_id(&copy, CURRENCY)).await), 0);

    let elsewhere = format!("msg_{}_9", id.strip_prefix("conv_").unwrap());
    for after in [*retrieval, "msg_x_0", &elsewhere] {
        let refused = server
            .refused_at("POST", &path, json!({"after": after}))
            .await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (404, "item_not_found", json!("after"))
        );
    }
}

#[tokio::test]
async fn messages_that_are_put_in_are_part_of_the_next_turn_and_of_the_list() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let path = format!("/v1/conversations/{id}/items");
    let said = json!([
        {"role": "user", "content": "What is the capital of Chile?"},
        {"type": "message", "role": "assistant", "content": "Santiago."},
    ]);
    let added = server.done("POST", &path, json!({"items": said})).await;
    let name = id.strip_prefix("conv_").unwrap();
    let expected = [format!("msg_{name}_2"), format!("msg_{name}_3")];
    assert_eq!(ids(&added), expected);
    assert_eq!(added["has_more"], false);
    assert_eq!(added["data"][1]["content"][0]["text"], "Santiago.");
    let one = format!("{path}/{}", expected[1]);
    assert_eq!(
        server.done("GET", &one, Value::Null).await,
        added["data"][1]
    );
    let nowhere = format!("{path}/msg_{name}_4");
    let refused = server.refused_at("GET", &nowhere, Value::Null).await;
    assert_eq!((refused.0, &*refused.1), (404, "item_not_found"));

    // The log goes on: nothing that it holds is forwarded again.
    let next = server.complete(&by_id(id, CURRENCY)).await;
    assert_eq!(cached(&next), total(&first) - 1);
    assert!(content(&next).contains("peso"), "{next}");
    let again = server.complete(&by_id(id, PERU)).await;
    assert_eq!(cached(&again), total(&next) - 1);
    assert_eq!(
        ids(&items(&server, id, "?limit=100").await)
            .iter()
            .filter(|id| id.starts_with("msg_"))
            .count(),
        8
    );
    for (items, param) in [
        (json!([]), "items"),
        (json!([{"role": "user"}]), "items[0].content"),
        (
            json!([{"type": "function_call", "role": "user", "content": "x"}]),
            "items[0].type \"function_call\"",
        ),
    ] {
        let refused = server
            .refused_at("POST", &path, json!({"items": items}))
            .await;
        assert_eq!((refused.0, refused.2), (400, json!(param)));
    }
}

#[tokio::test]
async fn what_a_client_wants_to_remember_of_a_conversation_can_change() {
    let server = Almanac::start().await;
    let created = server.done("POST", "/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}", created["id"].as_str().unwrap());
    let metadata = json!({"metadata": {"topic": "countries"}});
    let changed = server.done("POST", &path, metadata.clone()).await;
    assert_eq!(changed, with(created.clone(), metadata.clone()));
    let server = server.restart().await;
    assert_eq!(server.done("GET", &path, Value::Null).await, changed);
    let long = json!({"metadata": {"topic": "x".repeat(513)}});
    let refused = server.refused_at("POST", &path, long).await;
    assert_eq!((refused.0, refused.2), (400, json!("metadata.topic")));
    let nowhere = server.refused_at("POST", "/v1/conversations/conv_x", metadata);
    assert_eq!(nowhere.await.0, 404);
}

#[tokio::test]
async fn a_deleted_message_is_gone_and_the_others_keep_their_names() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    server.complete(&by_id(id, CURRENCY)).await;
    let before = items(&server, id, "?order=asc").await;
    let before: Vec<_> = ids(&before).into_iter().map(str::to_owned).collect();
    let messages: Vec<_> = before.iter().filter(|id| id.starts_with("msg_")).collect();
    assert_eq!(messages.len(), 4);

    let path = format!("/v1/conversations/{id}/items/{}", messages[1]);
    let now = server.done("DELETE", &path, Value::Null).await;
    assert_eq!(now["id"], id);
    assert_eq!(now["onegen"]["messages"], 3);
    let (status, code, param, _) = server.refused_at("DELETE", &path, Value::Null).await;
    assert_eq!(
        (status, &*code, param),
        (404, "item_not_found", json!("item"))
    );

    let server = server.restart().await;
    let after = items(&server, id, "?order=asc").await;
    let rest: Vec<_> = messages.iter().filter(|id| **id != messages[1]).collect();
    let left: Vec<_> = ids(&after)
        .into_iter()
        .filter(|id| id.starts_with("msg_"))
        .collect();
    assert_eq!(left, rest.iter().map(|id| id.as_str()).collect::<Vec<_>>());
    // The answer went with what was read for it.
    assert!(!ids(&after).contains(&before[1].as_str()), "{after}");
    let next = server.complete(&by_id(id, PERU)).await;
    assert_eq!(cached(&next), 0);
    let last = items(&server, id, "?limit=1").await;
    let answer = messages[3].strip_suffix("_3").unwrap().to_owned() + "_5";
    assert_eq!(ids(&last), [answer]);
    let again = server.complete(&by_id(id, CURRENCY)).await;
    assert_eq!(cached(&again), total(&next) - 1);
}
