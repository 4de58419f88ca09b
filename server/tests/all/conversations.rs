//! How a conversation is continued, and how it is kept.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::{
    Files, Server, cached, content, conversation, count, question, total, transcript, with,
};
use onegen_engine::{LoadOptions, Model};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Short answers without retrievals.
fn short(files: &Files) -> Value {
    files.without_retrieval(6)
}

const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";

async fn ask_peru(server: &Server, files: &Files) -> Value {
    server.complete(&with(question(PERU), short(files))).await
}

#[tokio::test]
async fn a_conversation_goes_on_by_its_id_with_only_the_new_messages() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    assert_eq!(cached(&first), 0);
    for id in [
        json!(conversation(&first)),
        json!({"id": conversation(&first)}),
    ] {
        let body = with(question(CURRENCY), json!({"conversation": id}));
        let next = server.complete(&with(body, short(&files))).await;
        assert_eq!(conversation(&next), conversation(&first));
        assert!(cached(&next) >= total(&first) - 1);
    }
}

#[tokio::test]
async fn a_conversation_is_recognised_by_its_visible_messages() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    let body = transcript(&[(PERU, &first)], CURRENCY);
    let second = server.complete(&with(body, short(&files))).await;
    assert_eq!(conversation(&second), conversation(&first));
    assert_eq!(cached(&second), total(&first) - 1);
    let body = transcript(&[(PERU, &first), (CURRENCY, &second)], "And its language?");
    let third = server.complete(&with(body, short(&files))).await;
    assert_eq!(conversation(&third), conversation(&first));
    assert_eq!(cached(&third), total(&second) - 1);
}

#[tokio::test]
async fn a_conversation_goes_on_after_an_empty_answer() {
    let files = Files::new();
    let server = files.serve().await;
    let end = Model::load(files.model(), &LoadOptions::default())
        .map(|model| (0..512).find(|&id| model.tokens().is_eos(id)).unwrap())
        .unwrap();
    let silent = json!({"logit_bias": {end.to_string(): 100}});
    let first = server.complete(&with(question(PERU), silent)).await;
    assert_eq!(content(&first), "");
    let by_messages = transcript(&[(PERU, &first)], CURRENCY);
    let second = server.complete(&with(by_messages, short(&files))).await;
    assert_eq!(conversation(&second), conversation(&first));
    assert_eq!(cached(&second), total(&first) - 1);
}

#[tokio::test]
async fn an_edited_question_continues_a_copy_of_what_came_before() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    let body = transcript(&[(PERU, &first)], CURRENCY);
    let second = server.complete(&with(body, short(&files))).await;
    // The same point as before, which is not the head any more.
    let body = transcript(&[(PERU, &first)], "And its language?");
    let edited = server.complete(&with(body, short(&files))).await;
    assert_ne!(conversation(&edited), conversation(&first));
    assert!(cached(&edited) >= total(&first) - 1);
    // The first one is as it was.
    let body = transcript(&[(PERU, &first), (CURRENCY, &second)], "Thanks.");
    let third = server.complete(&with(body, short(&files))).await;
    assert_eq!(conversation(&third), conversation(&first));
}

#[tokio::test]
async fn one_who_names_a_conversation_never_finds_anothers_turns_in_it() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    let by_id = with(
        question(CURRENCY),
        json!({"conversation": conversation(&first)}),
    );
    let second = server.complete(&with(by_id, short(&files))).await;
    // Another client has seen the same messages and sends them back.
    let body = transcript(&[(PERU, &first), (CURRENCY, &second)], "Thanks.");
    let other = server.complete(&with(body, short(&files))).await;
    assert_ne!(conversation(&other), conversation(&first));
}

/// Starts a long streamed turn and gives its response once the first bytes are there.
async fn begin_long(server: &Server, files: &Files, body: Value) -> reqwest::Response {
    let long = json!({"stream": true, "logit_bias": files.bias(false), "max_tokens": 3500});
    let mut response = server.send(&with(body, long)).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.chunk().await.unwrap().unwrap();
    response
}

#[tokio::test]
async fn a_busy_conversation_is_refused_by_id_and_begun_anew_by_its_messages() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    let recognised = transcript(&[(PERU, &first)], CURRENCY);
    let under_way = begin_long(&server, &files, recognised.clone()).await;

    let by_id = with(
        question(CURRENCY),
        json!({"conversation": conversation(&first)}),
    );
    let (status, error) = server.refused(&by_id).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(error["code"], "conversation_busy");

    let second = server.complete(&with(recognised, short(&files))).await;
    assert_ne!(conversation(&second), conversation(&first));
    drop(under_way);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_turn_and_leaves_no_trace() {
    let files = Files::new();
    let server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    let by_id = with(
        question(CURRENCY),
        json!({"conversation": conversation(&first)}),
    );
    let under_way = begin_long(&server, &files, by_id.clone()).await;
    drop(under_way);
    server.idle().await;
    let forwarded: f64 = server.forwarded().await.iter().sum();
    assert!(forwarded < 3500.0, "the turn went on to its end");
    let aborted = "onegen_request_success_total{finished_reason=\"abort\"}";
    assert_eq!(server.metric(aborted).await, 1.0);

    // The conversation goes on from where it was before that turn.
    let second = server.complete(&with(by_id, short(&files))).await;
    assert_eq!(conversation(&second), conversation(&first));
    let new = count(&second["usage"]["prompt_tokens"]) - total(&first);
    let again = server
        .complete(&with(question(CURRENCY), short(&files)))
        .await;
    assert!(new <= count(&again["usage"]["prompt_tokens"]) + 1);
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_its_plain_answer_cancels_it_too() {
    let files = Files::new();
    let server = files.serve().await;
    let long = files.without_retrieval(3500);
    let request = server
        .http
        .post(format!("{}/v1/chat/completions", server.url))
        .json(&with(question(PERU), long));
    let asking = tokio::spawn(request.send());
    while server.metric("onegen_num_requests_running").await < 1.0 {
        assert!(!asking.is_finished(), "too fast to be left");
    }
    asking.abort();
    server.idle().await;
    let aborted = "onegen_request_success_total{finished_reason=\"abort\"}";
    assert_eq!(server.metric(aborted).await, 1.0);
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
}

#[tokio::test]
async fn beyond_the_limit_the_least_recently_continued_conversation_is_not_found() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-conversations", "1"])).await;
    let first = ask_peru(&server, &files).await;
    let body = transcript(&[(PERU, &first)], CURRENCY);
    let by_id = with(
        question(CURRENCY),
        json!({"conversation": conversation(&first)}),
    );
    // Another conversation takes the only place.
    let hello = with(question("Hello!"), short(&files));
    server.complete(&hello).await;
    let (status, error) = server.refused(&by_id).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(error["code"], "conversation_not_found");
    let second = server.complete(&with(body, short(&files))).await;
    assert_ne!(conversation(&second), conversation(&first));
    assert_eq!(cached(&second), 0);
}

#[tokio::test]
async fn a_named_conversation_that_the_engine_forgot_goes_on_from_what_its_client_has_seen() {
    let files = Files::new();
    let mut server = files.serve().await;
    let first = ask_peru(&server, &files).await;
    server.stop();
    server.stopped().await;
    // Logs and KV-caches are lost, transcripts are not.
    let kept = fs::read_dir(files.data_dir().join("conversations")).unwrap();
    let of_model = kept.map(|entry| entry.unwrap().path()).next().unwrap();
    let files_of_engine = fs::read_dir(of_model)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let lost: Vec<_> = files_of_engine.filter(|path| path.is_file()).collect();
    assert!(lost.len() >= 2, "{lost:?}");
    for path in lost {
        fs::remove_file(path).unwrap();
    }
    let server = files.serve().await;
    let of_first = json!({"conversation": conversation(&first)});
    let goes_on = with(with(question(CURRENCY), of_first), short(&files));
    let second = server.complete(&goes_on).await;
    assert_eq!(conversation(&second), conversation(&first));
    assert_eq!(cached(&second), 0);
    assert!(count(&second["usage"]["prompt_tokens"]) > count(&first["usage"]["completion_tokens"]));
}

#[tokio::test]
async fn conversations_do_not_mix_when_many_go_on_at_once() {
    let files = Files::new();
    let server = files.serve().await;
    let talks = (0..8).map(|talk| {
        let (server, files) = (&server, &files);
        async move {
            let start = format!("I am number {talk}.");
            let fields = short(files);
            let first = server
                .complete(&with(question(&start), fields.clone()))
                .await;
            let body = transcript(&[(&start, &first)], "Who am I?");
            let second = server.complete(&with(body, fields)).await;
            assert_eq!(conversation(&second), conversation(&first));
            assert_eq!(cached(&second), total(&first) - 1);
            conversation(&first).to_owned()
        }
    });
    let mut ids = futures::future::join_all(talks).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}
