//! No conversation answers from a document that was deleted or changed, even if it has read the
//! document before.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::almanac::{Almanac, zembla};
use crate::common::{by_id, chunks, content, conversation, count, question, with};
use onegen_index::{Change, Index};
use serde_json::{Value, json};

const ZEMBLA: &str = "What is the capital of Zembla?";
const CURRENCY: &str = "And its currency?";
const DOCUMENT: &str = "/v1/documents/country%2Fzembla";

/// The next message of a client that sends back the messages that it has seen.
fn by_messages(answer: &Value, text: &str) -> Value {
    json!({"model": "onegen", "messages": [
        {"role": "user", "content": ZEMBLA},
        {"role": "assistant", "content": content(answer)},
        {"role": "user", "content": text},
    ]})
}

/// Ids of all passages that an answer's retrievals found.
fn found(answer: &Value) -> Vec<&str> {
    let receipts = answer["onegen"]["retrievals"].as_array().unwrap();
    let passages = receipts
        .iter()
        .flat_map(|r| r["passages"].as_array().unwrap());
    passages
        .map(|passage| passage["id"].as_str().unwrap())
        .collect()
}

/// Adds the document on Zembla and asks about it. Returns the answer, whose conversation has read
/// the document.
async fn read_zembla(server: &Almanac) -> Value {
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let answer = server.complete(&question(ZEMBLA)).await;
    assert!(content(&answer).contains("Onhava"), "{answer}");
    assert_eq!(found(&answer), ["country/zembla"]);
    answer
}

/// The next turn is refused, and both conversation and document are named.
async fn assert_told(server: &Almanac, id: &str) {
    for stream in [false, true] {
        let body = with(by_id(id, CURRENCY), json!({"stream": stream}));
        let (status, error) = server.refused(&body).await;
        assert_eq!(status, 409);
        assert_eq!(error["code"], "conversation_holds_deleted_document");
        assert_eq!(error["param"], "conversation");
        let message = error["message"].as_str().unwrap();
        for named in [id, "\"country/zembla\"", "/rebuild"] {
            assert!(message.contains(named), "{message}");
        }
    }
}

#[tokio::test]
async fn a_conversation_that_has_read_a_deleted_document_is_told_and_can_be_rebuilt() {
    let server = Almanac::start().await;
    let answer = read_zembla(&server).await;
    let id = conversation(&answer);
    // The conversation could answer this without another search.
    let second = server.complete(&by_id(id, CURRENCY)).await;
    assert!(content(&second).contains("krone"), "{second}");
    let bystander = server
        .complete(&question("What is the capital of Peru?"))
        .await;

    let deleted = server.done("DELETE", DOCUMENT, Value::Null).await;
    assert_eq!(deleted["conversations"], 1);
    assert_told(&server, id).await;

    let rebuild = format!("/v1/conversations/{id}/rebuild");
    let rebuilt = server.done("POST", &rebuild, Value::Null).await;
    let told = json!({
        "id": id, "object": "conversation.rebuilt", "dropped_documents": ["country/zembla"],
    });
    assert_eq!(rebuilt, told);
    let never = json!({"retrieval": {"enabled": false}});
    let third = server
        .complete(&with(by_id(id, "Thanks!"), never.clone()))
        .await;
    assert_eq!(conversation(&third), id);
    // Only the messages that the client has seen were kept. Without passages the conversation is as
    // long as if these had been sent anew, and nothing of the old log is shared beyond the first
    // retrieval.
    let seen = json!({"model": "onegen", "messages": [
        {"role": "user", "content": ZEMBLA},
        {"role": "assistant", "content": content(&answer)},
        {"role": "user", "content": CURRENCY},
        {"role": "assistant", "content": content(&second)},
        {"role": "user", "content": "Thanks!"},
    ]});
    let anew = server.complete(&with(seen, never)).await;
    assert_ne!(conversation(&anew), id);
    assert_eq!(content(&anew), content(&third));
    assert_eq!(
        anew["usage"]["prompt_tokens"],
        third["usage"]["prompt_tokens"]
    );
    assert_eq!(third["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    // And it goes on from there.
    let fourth = server
        .complete(&by_id(id, "What is the capital of Chile?"))
        .await;
    assert!(content(&fourth).contains("Santiago"), "{fourth}");
    let cached = count(&fourth["usage"]["prompt_tokens_details"]["cached_tokens"]);
    assert_eq!(cached, count(&third["usage"]["total_tokens"]) - 1);
    // Other conversations are not affected.
    server
        .complete(&by_id(conversation(&bystander), CURRENCY))
        .await;
    let nobody = server
        .refused_at("POST", "/v1/conversations/conv_x/rebuild", Value::Null)
        .await;
    assert_eq!(
        (nobody.0, nobody.1.as_str()),
        (404, "conversation_not_found")
    );
}

#[tokio::test]
async fn one_who_sends_messages_back_is_answered_afresh_without_the_deleted_document() {
    let server = Almanac::start().await;
    let answer = read_zembla(&server).await;
    server.done("DELETE", DOCUMENT, Value::Null).await;
    let next = server.complete(&by_messages(&answer, CURRENCY)).await;
    assert_ne!(conversation(&next), conversation(&answer));
    assert_eq!(next["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert!(!content(&next).contains("krone"), "{next}");
    assert!(!found(&next).contains(&"country/zembla"), "{next}");
}

#[tokio::test]
async fn a_changed_text_counts_as_gone_and_one_put_in_again_unchanged_does_not() {
    let server = Almanac::start().await;
    let answer = read_zembla(&server).await;
    let id = conversation(&answer);
    let moved = with(
        zembla("Onhava"),
        json!({"url": "https://example.org/moved", "metadata": {}}),
    );
    server.done("PUT", "/v1/documents", moved).await;
    let cached = |answer: &Value| count(&answer["usage"]["prompt_tokens_details"]["cached_tokens"]);
    let second = server.complete(&by_id(id, CURRENCY)).await;
    assert_eq!(cached(&second), count(&answer["usage"]["total_tokens"]) - 1);

    server
        .done("PUT", "/v1/documents", zembla("Odevalla"))
        .await;
    assert_told(&server, id).await;
    let asked = server.complete(&question(ZEMBLA)).await;
    assert!(content(&asked).contains("Odevalla"), "{asked}");
}

#[tokio::test]
async fn what_was_deleted_is_told_after_a_restart_whoever_deleted_it() {
    for by_request in [true, false] {
        let server = Almanac::start().await;
        let answer = read_zembla(&server).await;
        let id = conversation(&answer);
        if by_request {
            server.done("DELETE", DOCUMENT, Value::Null).await;
        }
        let index = server.index_dir();
        let server = server
            .restart_after(|| {
                if !by_request {
                    let index = Index::open_for_changes(&index).unwrap();
                    let id = "country/zembla".to_owned();
                    index.apply(vec![Change::DeleteDocument { id }]).unwrap();
                }
            })
            .await;
        assert_told(&server, id).await;
        let fresh = server.complete(&by_messages(&answer, CURRENCY)).await;
        assert_ne!(conversation(&fresh), id);
        assert!(!content(&fresh).contains("krone"), "{fresh}");
        let rebuild = format!("/v1/conversations/{id}/rebuild");
        server.done("POST", &rebuild, Value::Null).await;
        // The rebuilt state survives a restart.
        let server = server.restart().await;
        let next = server.complete(&by_id(id, CURRENCY)).await;
        assert_eq!(conversation(&next), id);
        assert!(!content(&next).contains("krone"), "{next}");
    }
}

#[tokio::test]
async fn token_log_and_cache_of_what_is_deleted_leave_the_disk() {
    let server = Almanac::start().await;
    let bystander = server
        .complete(&question("What is the capital of Peru?"))
        .await;
    let conversations = server.files.path("data").join("conversations");
    // The passage that was read is kept, by a thread of its own. The metric follows with the next step.
    let tokenizers = fs::read_dir(&conversations).unwrap();
    let passages: Vec<_> = tokenizers
        .map(|entry| entry.unwrap().path().join("passages"))
        .collect();
    let is_kept = || {
        let there = passages.iter().filter(|dir| dir.exists());
        there.map(|dir| kept(dir)).sum::<usize>() > 0
    };
    for _ in 0..200 {
        if is_kept() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_kept());
    let files = || kept(&conversations);
    let before = files();
    assert!(before > 0);
    let answer = read_zembla(&server).await;
    assert!(files() > before);
    server.done("DELETE", DOCUMENT, Value::Null).await;
    // The engine removes the files on a thread of its own.
    for _ in 0..100 {
        if files() == before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(files(), before);
    server
        .complete(&by_id(conversation(&bystander), CURRENCY))
        .await;
    assert_told(&server, conversation(&answer)).await;
}

/// The number of the engine's files below a directory, without the server's transcripts.
fn kept(dir: &Path) -> usize {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let counts = entries.map(|path| {
        if !path.is_dir() {
            1
        } else if path.ends_with("transcripts") {
            0
        } else {
            kept(&path)
        }
    });
    counts.sum()
}

/// The document is changed while a turn that has read it is still writing.
#[tokio::test]
async fn a_turn_under_way_ends_as_it_began_and_its_conversation_is_told_then() {
    let server = Almanac::start().await;
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let forever = json!({"stream": true, "min_tokens": 600, "max_tokens": 600});
    let mut response = server.send(&with(question(ZEMBLA), forever)).await;
    let mut text = String::new();
    while !text.contains("country/zembla") {
        let chunk = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    server.done("DELETE", DOCUMENT, Value::Null).await;
    text.push_str(&response.text().await.unwrap());
    let last = chunks(&text).pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_told(&server, conversation(&last)).await;
}

#[tokio::test]
async fn metadata_that_a_conversations_filter_excludes_later_takes_its_passage_away() {
    let server = Almanac::start().await;
    let of = |tenant: &str| with(zembla("Onhava"), json!({"metadata": {"tenant": tenant}}));
    let filter = json!({"type": "eq", "key": "tenant", "value": "a"});
    let asks = |body: Value| with(body, json!({"retrieval": {"filter": filter}}));
    server.done("PUT", "/v1/documents", of("a")).await;
    let answer = server.complete(&asks(question(ZEMBLA))).await;
    assert_eq!(found(&answer), ["country/zembla"]);
    let id = conversation(&answer);
    server.complete(&asks(by_id(id, CURRENCY))).await;

    server.done("PUT", "/v1/documents", of("b")).await;
    assert_told(&server, id).await;
    let rebuild = format!("/v1/conversations/{id}/rebuild");
    server.done("POST", &rebuild, Value::Null).await;
    server.complete(&asks(by_id(id, CURRENCY))).await;
}
