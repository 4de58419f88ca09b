//! The streams of Open WebUI and of Vercel's UI, with the shipped model.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::{Almanac, country, zembla};
use crate::common::{Files, chunks, question, with};
use reqwest::Response;
use serde_json::{Value, json};

const PERU: &str = "What is the capital of Peru?";
const HEADER: &str = "x-vercel-ai-ui-message-stream";

fn streamed(text: &str, events: &str) -> Value {
    with(
        question(text),
        json!({"stream": true, "stream_options": {"events": events}}),
    )
}

async fn parts(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[HEADER], "v1");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    chunks(&response.text().await.unwrap())
}

fn kinds(parts: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = parts
        .iter()
        .map(|part| part["type"].as_str().unwrap())
        .collect();
    kinds.dedup();
    kinds
}

#[tokio::test]
async fn vercels_stream_has_its_parts_in_order_with_sources_where_they_were_read() {
    let server = Almanac::start().await;
    let by_field = parts(server.send(&streamed(PERU, "vercel_ui")).await).await;
    let url = format!("{}/v1/chat/completions", server.url);
    // The format is chosen by the header that its own clients send, without any other field.
    let by_header = server
        .http
        .post(url)
        .header(HEADER, "v1")
        .json(&question(PERU));
    let by_header = parts(by_header.send().await.unwrap()).await;
    for parts in [&by_field, &by_header] {
        let expected = [
            "start",
            "start-step",
            "data-retrieval",
            "source-document",
            "text-start",
            "text-delta",
            "text-end",
            "data-citations",
            "finish-step",
            "finish",
        ];
        assert_eq!(kinds(parts), expected);
        let find = |kind: &str| parts.iter().find(|part| part["type"] == kind).unwrap();
        assert!(
            find("start")["messageId"]
                .as_str()
                .unwrap()
                .starts_with("msg_")
        );
        assert_eq!(find("data-retrieval")["data"]["query_tokens_reencoded"], 0);
        let source = json!({
            "type": "source-document", "sourceId": "country-peru", "mediaType": "text/plain",
            "title": "Peru",
        });
        assert_eq!(*find("source-document"), source);
        let deltas = parts.iter().filter(|part| part["type"] == "text-delta");
        let text: String = deltas.map(|part| part["delta"].as_str().unwrap()).collect();
        assert!(text.contains("Lima"), "{text}");
        for kind in ["text-start", "text-delta", "text-end"] {
            assert_eq!(find(kind)["id"], find("text-start")["id"]);
        }
        let citation = &find("data-citations")["data"][0];
        let end = text.trim_end().encode_utf16().count();
        assert_eq!(citation["end_index"], end);
        assert_eq!(citation["title"], "Peru");
        let metadata = &find("finish")["messageMetadata"];
        assert_eq!(metadata["finishReason"], "stop");
        assert!(metadata["usage"]["total_tokens"].as_u64() > Some(0));
        let id = metadata["conversation"].as_str().unwrap();
        server
            .done("GET", &format!("/v1/conversations/{id}"), Value::Null)
            .await;
    }
}

#[tokio::test]
async fn a_passage_with_a_url_is_a_source_with_one_in_both_streams() {
    let server = Almanac::start().await;
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let asked = "What is the capital of Zembla?";
    let parts = parts(server.send(&streamed(asked, "vercel_ui")).await).await;
    let source = json!({
        "type": "source-url", "sourceId": "country/zembla", "url": "https://example.org/zembla",
        "title": "Zembla",
    });
    assert!(parts.contains(&source), "{parts:?}");

    let response = server.send(&streamed(asked, "open_webui")).await;
    let events = chunks(&response.text().await.unwrap());
    let events: Vec<&Value> = events
        .iter()
        .filter_map(|chunk| chunk.get("event"))
        .collect();
    assert_eq!(
        events[1]["data"]["source"]["url"],
        "https://example.org/zembla"
    );
    assert_eq!(
        events[1]["data"]["metadata"][0]["source"],
        "https://example.org/zembla"
    );
}

#[tokio::test]
async fn open_webuis_events_stand_between_chunks_that_are_openais() {
    let server = Almanac::start().await;
    let response = server.send(&streamed(PERU, "open_webui")).await;
    let all = chunks(&response.text().await.unwrap());
    let plain = server.stream(&question(PERU)).await;
    let (events, chunks): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|c| c.get("event").is_some());
    let text = country("Peru")["text"].clone();
    let expected = json!([
        {"event": {"type": "status", "data": {"description": "Read \"Peru\"", "done": true}}},
        {"event": {"type": "source", "data": {
            "source": {"name": "Peru"}, "document": [text],
            "metadata": [{"source": "onegen://passage/country-peru", "name": "Peru"}],
        }}},
    ]);
    assert_eq!(json!(events), expected);
    let choices = |chunks: &[Value]| -> Vec<Value> {
        chunks
            .iter()
            .map(|chunk| chunk["choices"].clone())
            .collect()
    };
    assert_eq!(choices(&chunks), choices(&plain));
}

#[tokio::test]
async fn an_answer_without_retrievals_has_no_sources_and_even_an_empty_one_a_text() {
    let files = Files::new();
    let server = files.serve().await;
    let model = onegen_engine::Model::load(files.model(), &Default::default()).unwrap();
    let end = (0..512).find(|&id| model.tokens().is_eos(id)).unwrap();
    let silent = with(
        streamed("Hello!", "vercel_ui"),
        json!({"logit_bias": {end.to_string(): 100}}),
    );
    let parts = parts(server.send(&silent).await).await;
    let expected = [
        "start",
        "start-step",
        "text-start",
        "text-end",
        "finish-step",
        "finish",
    ];
    assert_eq!(kinds(&parts), expected);
}

#[tokio::test]
async fn events_that_nobody_knows_are_refused_and_errors_before_the_stream_have_their_status() {
    let files = Files::new();
    let server = files.serve().await;
    let (status, error) = server.refused(&streamed("Hello!", "gradio")).await;
    assert_eq!(
        (status.as_u16(), &error["param"]),
        (400, &json!("stream_options.events"))
    );
    let whole = with(
        question("Hello!"),
        json!({"stream_options": {"events": "vercel_ui"}}),
    );
    assert_eq!(server.refused(&whole).await.1["param"], "stream_options");
    let nobody = with(
        streamed("Hello!", "vercel_ui"),
        json!({"conversation": "conv_x"}),
    );
    assert_eq!(server.refused(&nobody).await.0, 404);
    let completion = json!({
        "model": "onegen", "prompt": "x", "stream": true, "stream_options": {"events": "open_webui"},
    });
    let refused = server
        .refused_at("POST", "/v1/completions", completion)
        .await;
    assert_eq!(
        (refused.0, refused.2),
        (400, json!("stream_options.events"))
    );
}
