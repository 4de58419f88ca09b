//! Linking over HTTP with a random model, compared with a token-by-token decoder and a scan.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::common::almanac::models;
use crate::common::models::linking::link_simply;
use crate::common::{Client, Files, Server, chunks, question, with};
use clap::Parser;
use onegen_engine::{LoadOptions, Model};
use onegen_server::{Config, NewKey, Scope};
use reqwest::Response;
use serde_json::{Value, json};

const LINK: &str = "/v1/entities/link";
const TEXT: &str = "\u{1f999} Lima is the capital of Peru \u{2014} \u{1d4db}ima. What is the coast of a country? \
    Peru, and what is na\u{ef}ve: the capital, Lima!\n";

fn input(input: impl Into<Value>) -> Value {
    json!({"model": "onegen", "input": input.into()})
}

async fn link(server: &Client, body: Value) -> Value {
    server.done("POST", LINK, body).await
}

async fn send(server: &Client, body: &Value) -> Response {
    let url = format!("{}{LINK}", server.url);
    server.http.post(url).json(body).send().await.unwrap()
}

fn mentions(answer: &Value, at: usize) -> &Vec<Value> {
    answer["data"][at]["mentions"].as_array().unwrap()
}

fn span(mention: &Value) -> (usize, usize) {
    let index = |key: &str| mention[key].as_u64().unwrap() as usize;
    (index("start_index"), index("end_index"))
}

fn characters(text: &str, (start, end): (usize, usize)) -> String {
    text.chars().skip(start).take(end - start).collect()
}

/// The same mention without measured times.
fn untimed(mut mention: Value) -> Value {
    assert!(mention["search_ms"].as_f64().unwrap() >= 0.0);
    mention.as_object_mut().unwrap().remove("search_ms");
    mention
}

#[tokio::test]
async fn mentions_and_candidates_are_those_of_a_simple_decoder_and_a_scan() {
    let files = Files::linking();
    let server = files.serve().await;
    let answer = link(
        &server,
        with(input(TEXT), json!({"k": 3, "offsets": "bytes"})),
    )
    .await;
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "onegen");
    assert_eq!(answer["onegen"]["collection"], "default");

    let model = Model::load(files.model(), &LoadOptions::default()).unwrap();
    let corpus = fs::read_to_string(files.corpus()).unwrap();
    let entities: Vec<Value> = corpus
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let texts: Vec<_> = entities
        .iter()
        .map(|e| (e["title"].as_str().unwrap(), e["text"].as_str().unwrap()))
        .collect();
    let vectors: Vec<_> = model
        .embed_texts(&texts)
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let expected = link_simply(&model, TEXT);
    assert!(expected.len() > 1, "{} mentions", expected.len());
    assert_eq!(mentions(&answer, 0).len(), expected.len());
    for (mention, (start, end, state)) in mentions(&answer, 0).iter().zip(expected) {
        assert_eq!(span(mention), (start, end));
        assert_eq!(mention["text"], TEXT[start..end]);
        let length = state.iter().map(|x| x * x).sum::<f32>().sqrt();
        let scalar =
            |vector: &Vec<f32>| vector.iter().zip(&state).map(|(a, b)| a * b).sum::<f32>() / length;
        let mut scores: Vec<_> = vectors.iter().map(scalar).zip(&entities).collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        let candidates = mention["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 3);
        for (candidate, (score, entity)) in candidates.iter().zip(scores) {
            assert_eq!(candidate["id"], entity["id"]);
            assert_eq!(candidate["title"], entity["title"]);
            assert_eq!(candidate["url"], entity["url"]);
            assert!((candidate["score"].as_f64().unwrap() as f32 - score).abs() < 1e-4);
        }
    }
}

#[tokio::test]
async fn a_stream_tells_the_same_mentions_in_order_and_what_they_took() {
    let files = Files::linking();
    let server = files.serve().await;
    let body = with(input(json!([TEXT, "Peru", " \n", TEXT])), json!({"k": 2}));
    let whole = link(&server, body.clone()).await;
    let response = send(&server, &with(body, json!({"stream": true}))).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut events = chunks(&response.text().await.unwrap());
    let end = events.pop().unwrap();
    assert_eq!(end["object"], "entity.usage");
    assert_eq!(end["model"], "onegen");
    assert_eq!(end["usage"], whole["usage"]);
    assert_eq!(end["onegen"]["forwarded"], whole["onegen"]["forwarded"]);
    let told: Vec<_> = events.into_iter().map(untimed).collect();
    let mut expected = Vec::new();
    for index in 0..4 {
        for mention in mentions(&whole, index) {
            let mention = with(
                mention.clone(),
                json!({"index": index, "object": "entity.mention"}),
            );
            expected.push(untimed(mention));
        }
    }
    assert_eq!(told, expected);
    assert!(mentions(&whole, 2).is_empty());
    let ids =
        |at: usize| -> Vec<Value> { mentions(&whole, at).iter().cloned().map(untimed).collect() };
    assert_eq!(ids(0), ids(3));
}

#[tokio::test]
async fn offsets_count_what_the_clients_language_counts() {
    let files = Files::linking();
    let server = files.serve().await;
    let default = link(&server, input(TEXT)).await;
    let utf16: Vec<u16> = TEXT.encode_utf16().collect();
    for unit in ["characters", "utf16", "bytes"] {
        let answer = link(&server, with(input(TEXT), json!({"offsets": unit}))).await;
        for (mention, by_default) in mentions(&answer, 0).iter().zip(mentions(&default, 0)) {
            let (start, end) = span(mention);
            let text = match unit {
                "characters" => characters(TEXT, (start, end)),
                "utf16" => String::from_utf16(&utf16[start..end]).unwrap(),
                _ => TEXT[start..end].to_owned(),
            };
            assert_eq!(mention["text"], text, "{unit}");
            if unit == "characters" {
                assert_eq!(span(by_default), (start, end));
            }
        }
        assert_eq!(mentions(&answer, 0).len(), mentions(&default, 0).len());
    }
}

#[tokio::test]
async fn a_long_text_is_linked_in_parts_with_offsets_of_the_whole() {
    let files = Files::linking();
    let server = files.serve().await;
    let sentence = "Lima is the capital of Peru \u{1f999}, a country on the coast. ";
    let text = format!("  {}{}", sentence.repeat(40), "na\u{ef}ve".repeat(300));
    let answer = link(&server, input(json!([text, "Peru"]))).await;
    assert!(answer["onegen"]["parts"].as_u64().unwrap() > 4);
    let found = mentions(&answer, 0);
    let mut last = 0;
    for mention in found {
        let (start, end) = span(mention);
        assert!(last <= start && start < end, "{mention}");
        assert_eq!(mention["text"], characters(&text, (start, end)));
        last = end;
    }
    // The same sentence is linked alike wherever parts begin, so mentions are spread over all of it.
    assert!(last > text.chars().count() / 2);
    let receipt = &answer["onegen"];
    let of_kind = |kind: &str| receipt["forwarded"][kind].as_u64().unwrap();
    assert_eq!(
        of_kind("retrieval"),
        (found.len() + mentions(&answer, 1).len()) as u64
    );
    // Parts of one request share the blocks of KV in which their prompts are alike.
    let usage = &answer["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert_eq!(
        of_kind("prompt") + cached,
        usage["prompt_tokens"].as_u64().unwrap()
    );
    assert!(receipt["total_ms"].as_f64().unwrap() >= receipt["search_ms"].as_f64().unwrap() / 8.0);
    let [prompt, generated, retrieval, passage] = server.forwarded().await;
    assert_eq!(
        [prompt, generated, retrieval, passage],
        [
            of_kind("prompt"),
            of_kind("generated"),
            of_kind("retrieval"),
            0
        ]
        .map(|n| n as f64)
    );
    assert_eq!(
        server
            .metric("onegen_mentions_total{outcome=\"linked\"}")
            .await,
        of_kind("retrieval") as f64
    );
    assert_eq!(server.metric("onegen_conversations").await, 0.0);
}

#[tokio::test]
async fn a_mention_of_nothing_known_is_kept_without_candidates_or_dropped() {
    let files = Files::linking();
    let server = files.serve().await;
    let all = link(&server, input(TEXT)).await;
    let kept = link(&server, with(input(TEXT), json!({"min_score": 1}))).await;
    assert_eq!(mentions(&kept, 0).len(), mentions(&all, 0).len());
    for (kept, all) in mentions(&kept, 0).iter().zip(mentions(&all, 0)) {
        assert_eq!(span(kept), span(all));
        assert_eq!(kept["candidates"], json!([]));
    }
    let dropped = link(
        &server,
        with(input(TEXT), json!({"min_score": 1, "nil": "drop"})),
    )
    .await;
    assert!(mentions(&dropped, 0).is_empty());
    let nil = server
        .metric("onegen_mentions_total{outcome=\"nil\"}")
        .await;
    assert_eq!(nil, 2.0 * mentions(&all, 0).len() as f64);
}

#[tokio::test]
async fn entities_are_those_of_the_collection_and_filter_that_are_asked_for_now() {
    let files = Files::linking();
    let server = files.serve().await;
    let cuzco = json!({"id": "city-cuzco", "title": "Cuzco", "text": "Cuzco is a city.", "metadata": {"kind": "city"}});
    server.done("PUT", "/v1/documents", cuzco).await;
    let filter = json!({"filter": {"type": "eq", "key": "kind", "value": "city"}, "k": 5});
    let asked = || with(input("Cuzco"), filter.clone());
    let answer = link(&server, asked()).await;
    let first = &mentions(&answer, 0)[0]["candidates"];
    assert_eq!(first.as_array().unwrap().len(), 1);
    assert_eq!(first[0]["id"], "city-cuzco");
    assert_eq!(first[0]["metadata"], json!({"kind": "city"}));
    server
        .done("DELETE", "/v1/documents/city-cuzco", Value::Null)
        .await;
    let answer = link(&server, asked()).await;
    assert!(
        mentions(&answer, 0)
            .iter()
            .all(|mention| mention["candidates"] == json!([]))
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_the_name_of_the_field() {
    let files = Files::linking();
    let server = files.serve().await;
    let invalid = "invalid_value";
    for (fields, status, code, param) in [
        (json!({"model": "gpt-4"}), 404, "model_not_found", "model"),
        (json!({"model": 7}), 400, invalid, "model"),
        (json!({"input": null}), 400, invalid, "input"),
        (json!({"input": 7}), 400, invalid, "input"),
        (json!({"input": []}), 400, invalid, "input"),
        (json!({"input": vec!["Peru"; 129]}), 400, invalid, "input"),
        (json!({"input": ""}), 400, invalid, "input"),
        (json!({"input": ["Peru", ""]}), 400, invalid, "input[1]"),
        (
            json!({"collection": "cities"}),
            404,
            "collection_not_found",
            "collection",
        ),
        (json!({"k": 0}), 400, invalid, "k"),
        (json!({"k": 101}), 400, invalid, "k"),
        (json!({"k": -1}), 400, invalid, "k"),
        (json!({"min_score": 1.01}), 400, invalid, "min_score"),
        (
            json!({"filter": {"type": "like"}}),
            400,
            invalid,
            "filter.type",
        ),
        (json!({"filter": "kind=city"}), 400, invalid, "filter"),
        (json!({"nil": "forget"}), 400, invalid, "nil"),
        (json!({"offsets": "graphemes"}), 400, invalid, "offsets"),
        (json!({"stream": "yes"}), 400, invalid, "stream"),
    ] {
        let body = with(input("Peru"), fields.clone());
        let (got, got_code, got_param, message) = server.refused_at("POST", LINK, body).await;
        assert_eq!(
            (got, got_code.as_str(), got_param),
            (status, code, json!(param)),
            "{fields}: {message}"
        );
    }
}

#[tokio::test]
async fn each_kind_of_model_says_what_it_does_not_do() {
    let files = Files::new();
    let server = files.serve().await;
    let (status, code, param, message) = server.refused_at("POST", LINK, input("Peru")).await;
    assert_eq!(
        (status, code.as_str(), param),
        (400, "model_links_no_entities", json!("model"))
    );
    for part in ["[LK]", "[SE]", "[_CONTINUE_]", "onegen.json"] {
        assert!(message.contains(part), "{message}");
    }
    let files = Files::linking();
    let server = files.serve().await;
    for (path, body) in [
        ("/v1/chat/completions", question("Peru?")),
        (
            "/v1/chat/completions",
            with(question("Peru?"), json!({"stream": true})),
        ),
        (
            "/v1/completions",
            json!({"model": "onegen", "prompt": "Peru"}),
        ),
        (
            "/v1/responses",
            json!({"model": "onegen", "input": "Peru?"}),
        ),
    ] {
        let (status, code, param, message) = server.refused_at("POST", path, body).await;
        assert_eq!(
            (status, code.as_str(), param),
            (400, "model_only_links", json!("model")),
            "{path}"
        );
        assert!(message.contains(LINK), "{message}");
    }
    // Its collection can be searched like any other.
    let search = json!({"query": "Peru", "max_num_results": 1});
    let page = server
        .done("POST", "/v1/vector_stores/default/search", search)
        .await;
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_links_with_the_scope_chat_over_collections_of_its_own() {
    let files = Files::linking();
    let path = files.dir.path().join("keys.toml");
    let key =
        |name: &str, scope, collections| NewKey::new(name.to_owned(), vec![scope], collections);
    let keys = [
        key("reader", Scope::Chat, None),
        key("writer", Scope::Documents, None),
        key("other", Scope::Chat, Some(vec!["b".to_owned()])),
    ];
    let entries = keys.map(|key| (key.key().to_owned(), key.entry().unwrap()));
    let text: String = entries.iter().map(|(_, entry)| entry.as_str()).collect();
    fs::write(&path, text).unwrap();
    let corpus = files.corpus();
    let (a, b) = (
        format!("a={}", corpus.display()),
        format!("b={}", corpus.display()),
    );
    let mut arguments = vec!["onegen-server", "--model", files.model().to_str().unwrap()];
    let data_dir = files.data_dir();
    arguments.extend([
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--corpus",
        &a,
        "--corpus",
        &b,
    ]);
    arguments.extend(["--api-keys", path.to_str().unwrap()]);
    let server = Server::start(&Config::try_parse_from(arguments).unwrap()).await;
    let [reader, writer, other] = entries.map(|(key, _)| server.with_key(&key));
    assert_eq!(
        link(&reader, input("Peru")).await["onegen"]["collection"],
        "a"
    );
    assert_eq!(
        link(&other, input("Peru")).await["onegen"]["collection"],
        "b"
    );
    let in_a = with(input("Peru"), json!({"collection": "a"}));
    assert_eq!(
        other.refused_at("POST", LINK, in_a).await.1,
        "collection_not_found"
    );
    assert_eq!(writer.refused_at("POST", LINK, input("Peru")).await.0, 403);
    assert_eq!(server.refused_at("POST", LINK, input("Peru")).await.0, 401);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_linking_at_once() {
    let files = Files::linking();
    let server = files.serve().await;
    let text = "Lima is the capital of Peru, a country on the coast. ".repeat(2000);
    let body = with(input(text.as_str()), json!({"stream": true}));
    let mut response = send(&server, &body).await;
    response.chunk().await.unwrap().unwrap();
    drop(response);
    let aborted = "onegen_request_success_total{finished_reason=\"abort\"}";
    assert!(server.awaited(aborted, |count| count > 0.0).await > 0.0);
    let running = "onegen_num_requests_running";
    assert_eq!(server.awaited(running, |count| count == 0.0).await, 0.0);
    let [prompt, ..] = server.forwarded().await;
    let tokens = Model::load(files.model(), &LoadOptions::default())
        .unwrap()
        .tokens()
        .count(&text);
    assert!(
        prompt < tokens as f64 / 2.0,
        "{prompt} of {tokens} were forwarded"
    );
    assert_eq!(server.metric("onegen_kv_cache_usage_perc").await, 0.0);
}

#[tokio::test]
async fn linking_that_takes_too_long_is_ended_with_an_error_also_in_a_stream() {
    let files = Files::linking();
    let server = Server::start(&files.config(&["--request-timeout", "0.2"])).await;
    let text = "Lima is the capital of Peru, a country on the coast. ".repeat(4000);
    let (status, code, ..) = server.refused_at("POST", LINK, input(text.as_str())).await;
    assert_eq!((status, code.as_str()), (504, "request_timeout"));
    let response = send(
        &server,
        &with(input(text.as_str()), json!({"stream": true})),
    )
    .await;
    assert_eq!(response.status(), 200);
    let events = chunks(&response.text().await.unwrap());
    assert_eq!(events.last().unwrap()["error"]["code"], "request_timeout");
}

/// A server with the shipped linking model and its entities.
pub(crate) async fn shipped(data_dir: &Path) -> Server {
    let model = models().join("linker");
    let entities = model.join("entities.jsonl");
    let mut arguments = vec!["onegen-server".into()];
    for (name, path) in [
        ("--model", &*model),
        ("--corpus", &*entities),
        ("--data-dir", data_dir),
    ] {
        arguments.extend([name.into(), path.as_os_str().to_owned()]);
    }
    Server::start(&Config::try_parse_from(arguments).unwrap()).await
}

/// What the shipped linking model must reach: micro F1 of mentions with exact offsets and the right id.
const LEAST_F1: f64 = 0.85;

#[tokio::test]
async fn the_shipped_linking_model_finds_and_links_what_stands_in_texts_it_has_not_seen() {
    let model = models().join("linker");
    if !model.join("config.json").exists() {
        println!("skipped: there is no models/linker");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = shipped(dir.path()).await;
    let examples = fs::read_to_string(model.join("examples.jsonl")).unwrap();
    let examples: Vec<Value> = examples
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (mut right, mut found, mut wanted) = (0, 0, 0);
    for some in examples.chunks(128) {
        let texts: Vec<_> = some.iter().map(|example| example["text"].clone()).collect();
        let answer = link(&server, input(texts)).await;
        for (at, example) in some.iter().enumerate() {
            let expected: Vec<_> = example["mentions"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|mention| !mention["id"].is_null())
                .map(|mention| {
                    (
                        mention["start"].as_u64(),
                        mention["end"].as_u64(),
                        mention["id"].clone(),
                    )
                })
                .collect();
            let linked: Vec<_> = mentions(&answer, at)
                .iter()
                .map(|mention| {
                    (
                        mention["start_index"].as_u64(),
                        mention["end_index"].as_u64(),
                        mention["candidates"][0]["id"].clone(),
                    )
                })
                .collect();
            right += linked
                .iter()
                .filter(|mention| expected.contains(mention))
                .count();
            found += linked.len();
            wanted += expected.len();
        }
    }
    let f1 = 2.0 * right as f64 / (found + wanted) as f64;
    println!("{right} right of {found} found and {wanted} there: F1 {f1:.3}");
    assert!(f1 >= LEAST_F1, "F1 {f1:.3}");
}
