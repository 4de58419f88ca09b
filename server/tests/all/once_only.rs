//! Requests that come again, and conversations that somebody leaves: what is done is done once, and what is not
//! kept is nowhere.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::almanac::Almanac;
use crate::common::{
    Files, Server, by_id, cached, content, conversation, question, total, transcript, with,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";
const LANGUAGE: &str = "And its language?";

/// Posts a request that its client calls `key`.
async fn named(server: &Server, path: &str, key: &str, body: &Value) -> Response {
    let request = server.http.post(format!("{}{path}", server.url));
    let request = request.header("idempotency-key", key).json(body);
    request.send().await.unwrap()
}

/// How many files a directory and all below it hold, without the file that locks it and without kept passages, which
/// belong to no conversation.
fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true if path.ends_with("passages") => 0,
        true => files(&path),
        false => usize::from(!path.ends_with("lock")),
    };
    entries.map(count).sum()
}

#[tokio::test]
async fn a_question_that_is_asked_again_or_edited_is_answered_from_the_same_place() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let second = server
        .complete(&transcript(&[(PERU, &first)], CURRENCY))
        .await;
    let before = [(PERU, &first), (CURRENCY, &second)];
    let third = server.complete(&transcript(&before, LANGUAGE)).await;
    assert!(content(&third).contains("Spanish"), "{third}");

    let again = server.complete(&transcript(&before, LANGUAGE)).await;
    assert_eq!(content(&again), content(&third));
    assert!(cached(&again) >= total(&second) - 1);
    assert_ne!(conversation(&again), conversation(&third));
    // Nobody can tell the two apart, and both are as they were.
    let whole = [before[0], before[1], (LANGUAGE, &third)];
    let on = server.complete(&transcript(&whole, CURRENCY)).await;
    let both = [&third, &again].map(conversation);
    assert!(both.contains(&conversation(&on)), "{on}");

    // An edited second question, also after a restart, when the caches are on the disk only.
    let server = server.restart().await;
    let edited = server.complete(&transcript(&before[..1], LANGUAGE)).await;
    assert!(content(&edited).contains("Spanish"), "{edited}");
}

#[tokio::test]
async fn a_request_that_comes_again_under_its_name_is_answered_once() {
    let server = Almanac::start().await;
    let first = server.complete(&question(PERU)).await;
    let id = conversation(&first);
    let fork = format!("/v1/conversations/{id}/fork");
    let items = format!("/v1/conversations/{id}/items");
    let chat = "/v1/chat/completions";
    let response = json!({"model": "onegen", "input": CURRENCY, "conversation": id});
    let more = json!({"items": [{"role": "user", "content": "Wait."}]});
    let requests = [
        (chat, by_id(id, CURRENCY)),
        (chat, with(by_id(id, CURRENCY), json!({"stream": true}))),
        ("/v1/responses", response.clone()),
        ("/v1/responses", with(response, json!({"stream": true}))),
        (&*items, more),
        ("/v1/conversations", json!({})),
        (&*fork, json!({})),
        (
            "/v1/completions",
            json!({"model": "onegen", "prompt": "Peru"}),
        ),
    ];
    for (at, (path, body)) in requests.iter().enumerate() {
        let key = format!("key-{at}");
        let once = named(&server, path, &key, body).await;
        assert_eq!(once.status(), StatusCode::OK, "{path}");
        assert!(!once.headers().contains_key("idempotent-replayed"));
        let kind = once.headers()["content-type"].clone();
        let once = once.text().await.unwrap();
        let before = server.messages(id).await;
        let twice = named(&server, path, &key, body).await;
        assert_eq!(twice.headers()["idempotent-replayed"], "true", "{path}");
        assert_eq!(twice.headers()["content-type"], kind);
        assert_eq!(twice.text().await.unwrap(), once, "{path}");
        assert_eq!(server.messages(id).await, before, "{path}");
        let other = with(body.clone(), json!({"metadata": {"a": "b"}}));
        let refused = named(&server, path, &key, &other).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{path}");
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["code"], "idempotency_key_reused");
    }
    // Two at the same moment.
    let body = by_id(id, LANGUAGE);
    let both = || named(&server, chat, "at-once", &body);
    let (one, other) = tokio::join!(both(), both());
    let (one, other): (Value, Value) = (one.json().await.unwrap(), other.json().await.unwrap());
    assert_eq!(one, other);
    let asked = server.messages(id).await.into_iter();
    assert_eq!(asked.filter(|(_, text)| text == LANGUAGE).count(), 1);
    // One that was refused is done when it comes again.
    let gone = by_id("conv_0", PERU);
    for _ in 0..2 {
        let refused = named(&server, chat, "refused", &gone).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_is_not_stored_is_nowhere_and_what_nobody_waits_for_is_not_kept() {
    let server = Almanac::start().await;
    let data = server.files.path("data").join("conversations");
    let empty = files(&data);
    let unstored = with(question(PERU), json!({"store": false}));
    let answer = server.complete(&unstored).await;
    assert!(content(&answer).contains("Lima"), "{answer}");
    server.stream(&unstored).await;
    let completion = json!({"model": "onegen", "prompt": "Peru is a"});
    server
        .done("POST", "/v1/completions", completion.clone())
        .await;
    // One of the prompts is refused, and clients go away.
    let refused = with(
        completion.clone(),
        json!({"prompt": ["Peru is a", "x ".repeat(4000)]}),
    );
    server.refused_at("POST", "/v1/completions", refused).await;
    for (path, body) in [
        ("/v1/completions", with(completion, json!({"stream": true}))),
        (
            "/v1/chat/completions",
            with(unstored, json!({"stream": true})),
        ),
        (
            "/v1/chat/completions",
            with(question(PERU), json!({"stream": true})),
        ),
    ] {
        let request = server
            .http
            .post(format!("{}{path}", server.url))
            .json(&body);
        drop(request.send().await.unwrap());
    }
    server.idle().await;
    // A turn whose client leaves just when it ends may be kept whole.
    let kept = server.metric("onegen_conversations").await;
    assert!(kept <= 1.0, "{kept}");
    assert!(files(&data) <= empty + 3, "{}", files(&data));
    let next = server
        .complete(&transcript(&[(PERU, &answer)], CURRENCY))
        .await;
    assert_ne!(conversation(&next), conversation(&answer));
}

#[tokio::test]
async fn a_killed_turns_log_without_a_transcript_is_forgotten_at_the_start() {
    let server = Almanac::start().await;
    server.complete(&question(PERU)).await;
    let data = server.files.path("data").join("conversations");
    let lost = || {
        // As if the process had been killed between the two.
        let tokenizer = fs::read_dir(&data).unwrap().next().unwrap().unwrap().path();
        fs::remove_dir_all(tokenizer.join("transcripts")).unwrap();
    };
    let server = server.restart_after(lost).await;
    let data = server.files.path("data").join("conversations");
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
    assert_eq!(files(&data), 0);
}

#[tokio::test]
async fn a_conversation_that_was_deleted_stays_so_whatever_turn_began_meanwhile() {
    let files = Files::new();
    let server = files.serve().await;
    let short = files.without_retrieval(3);
    let mut deleted = 0;
    for _ in 0..60 {
        let first = server.complete(&with(question(PERU), short.clone())).await;
        let id = conversation(&first);
        let path = format!("/v1/conversations/{id}");
        let (body, items) = (
            with(by_id(id, CURRENCY), short.clone()),
            format!("{path}/items"),
        );
        let more = json!({"items": [{"role": "user", "content": "Wait."}]});
        let (turn, gone, added) = tokio::join!(
            server.send(&body),
            server.ask("DELETE", &path, Value::Null),
            server.ask("POST", &items, more),
        );
        let (turn, gone, added) = (turn.status(), gone.0, added.0);
        let (now, _) = server.ask("GET", &path, Value::Null).await;
        if gone == StatusCode::OK {
            deleted += 1;
            assert_eq!(now, StatusCode::NOT_FOUND, "{turn} {added}");
            continue;
        }
        assert_eq!(gone, StatusCode::CONFLICT);
        let messages = server.messages(id).await;
        let has = |wanted: &str| messages.iter().any(|(_, text)| text == wanted);
        assert_eq!(has(CURRENCY), turn == StatusCode::OK, "{messages:?}");
        assert_eq!(has("Wait."), added == StatusCode::OK, "{messages:?}");
    }
    println!("{deleted} were deleted");
}

#[tokio::test]
async fn instructions_hold_for_one_response_and_are_no_message() {
    let files = Files::new();
    let server = files.serve().await;
    let respond = async |fields: Value| {
        let body = with(
            json!({"model": "onegen", "input": PERU, "max_output_tokens": 4}),
            fields,
        );
        server.done("POST", "/v1/responses", body).await
    };
    let begun = server.done("POST", "/v1/conversations", json!({})).await;
    let id = begun["id"].as_str().unwrap();
    let in_it = json!({"conversation": id, "instructions": "Be brief."});
    respond(in_it.clone()).await;
    let again = respond(with(in_it, json!({"input": CURRENCY}))).await;
    assert!(crate::common::cached_input(&again) > 0, "{again}");
    let said = server.messages(id).await;
    let roles: Vec<&str> = said.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    // Others, and none, take their place: the conversation is read again.
    let tokens = async |fields: Value| {
        let fields = with(json!({"conversation": id, "input": LANGUAGE}), fields);
        let response = respond(fields).await;
        let cached = crate::common::cached_input(&response);
        (
            cached,
            crate::common::count(&response["usage"]["input_tokens"]),
        )
    };
    let (cached, long) = tokens(json!({"instructions": "Be brief. ".repeat(100)})).await;
    assert_eq!(cached, 0);
    let (cached, none) = tokens(json!({})).await;
    assert_eq!(cached, 0);
    assert!(none < long, "{none} {long}");
    let after = respond(json!({"previous_response_id": again["id"], "input": LANGUAGE})).await;
    assert_eq!(crate::common::cached_input(&after), 0);
}

#[tokio::test]
async fn items_that_were_given_out_are_taken_back() {
    let server = Almanac::start().await;
    let body = |input: Value| json!({"model": "onegen", "input": input});
    let first = server
        .done("POST", "/v1/responses", body(json!(PERU)))
        .await;
    let output = first["output"].as_array().unwrap();
    let message = output.last().unwrap();
    for reference in [
        json!({"type": "item_reference", "id": message["id"]}),
        json!({"id": message["id"]}),
        message.clone(),
    ] {
        let asked = json!({"role": "user", "content": PERU});
        let next = json!({"role": "user", "content": CURRENCY});
        for search in [
            output[0].clone(),
            json!({"type": "item_reference", "id": output[0]["id"]}),
        ] {
            let second = body(json!([asked, search, reference, next]));
            let second = server.done("POST", "/v1/responses", second).await;
            assert!(crate::common::cached_input(&second) > 0, "{second}");
            let said = second["output"].to_string();
            assert!(said.contains("sol"), "{said}");
        }
    }
    let unknown = json!([{"id": "msg_0_1"}, {"role": "user", "content": PERU}]);
    let refused = server
        .refused_at("POST", "/v1/responses", body(unknown))
        .await;
    assert_eq!((refused.0, refused.2), (400, json!("input[0].id")));
    let begun = server.done("POST", "/v1/conversations", json!({})).await;
    let items = format!("/v1/conversations/{}/items", begun["id"].as_str().unwrap());
    let put = server.done("POST", &items, json!({"items": output})).await;
    assert_eq!(put["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_clients_send_back_of_answers_and_tools_is_taken() {
    let server = Almanac::start().await;
    let asked = json!({"role": "user", "content": PERU});
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let answer = async |messages: Value, fields: Value| {
        let body = with(json!({"model": "onegen", "messages": messages}), fields);
        content(&server.complete(&body).await).to_owned()
    };
    let lima = answer(json!([asked]), json!({})).await;
    let none = json!({"tools": tool, "tool_choice": "none"});
    assert_eq!(answer(json!([asked]), none).await, lima);
    let none = json!({"model": "onegen", "input": PERU, "tool_choice": "none",
        "tools": [{"type": "function", "name": "f", "parameters": {}}]});
    server.done("POST", "/v1/responses", none).await;
    let named = json!({"role": "user", "name": "ada", "content": PERU});
    assert_eq!(answer(json!([named]), json!({})).await, lima);
    let system = json!({"role": "system", "content": "Be brief."});
    answer(json!([asked, system]), json!({})).await;
    for empty in [
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant"}),
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
    ] {
        answer(json!([asked, empty, asked]), json!({})).await;
        let input = json!({"model": "onegen", "input": [asked, empty, asked]});
        server.done("POST", "/v1/responses", input).await;
        let items = json!({"items": [asked, empty]});
        let begun = server
            .done("POST", "/v1/conversations", items.clone())
            .await;
        let path = format!("/v1/conversations/{}/items", begun["id"].as_str().unwrap());
        server.done("POST", &path, items).await;
    }
    let last = json!([asked, {"role": "assistant", "content": "Lima."}]);
    let (status, error) = server
        .refused(&json!({"model": "onegen", "messages": last}))
        .await;
    assert_eq!(
        (status, &error["param"]),
        (StatusCode::BAD_REQUEST, &json!("messages[1].role"))
    );
}

#[tokio::test]
async fn the_model_is_found_by_each_of_its_names() {
    let files = Files::new();
    let arguments = ["--served-model-name", "org/name"];
    let server = Server::start(&files.config(&arguments)).await;
    let listed = server.get_json("/v1/models").await["data"][0].clone();
    for name in ["org/name", "org%2Fname", listed["root"].as_str().unwrap()] {
        assert_eq!(server.get_json(&format!("/v1/models/{name}")).await, listed);
    }
    let refused = server
        .refused_at("GET", "/v1/models/other", Value::Null)
        .await;
    assert_eq!((refused.0, refused.1), (404, "model_not_found".into()));
}

#[tokio::test]
async fn bodies_come_packed_or_with_a_mark_and_no_larger_than_allowed() {
    let files = Files::new();
    let server = Server::start(&files.config(&["--max-body-kb", "64"])).await;
    let send = async |encoding: Option<&str>, body: Vec<u8>| {
        let url = format!("{}/v1/embeddings", server.url);
        let mut request = server
            .http
            .post(url)
            .header("content-type", "application/json");
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        let response = request.body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (
            status,
            response.json::<Value>().await.unwrap()["error"]["code"].clone(),
        )
    };
    let plain = json!({"model": "onegen", "input": "Peru"}).to_string();
    let marked = format!("\u{feff}{plain}").into_bytes();
    assert_eq!(send(None, marked).await.0, 200);
    let packed = |text: &str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    assert_eq!(send(Some("gzip"), packed(&plain)).await.0, 200);
    let large = packed(&format!("{}{plain}", " ".repeat(1 << 20)));
    assert!(large.len() < 2000, "{}", large.len());
    assert_eq!(
        send(Some("gzip"), large).await,
        (413, json!("body_too_large"))
    );
    let (status, code) = send(Some("br"), plain.into_bytes()).await;
    assert_eq!((status, code), (415, json!("unknown_content_encoding")));
}
