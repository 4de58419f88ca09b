//! Embeddings by the shipped model.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::{Almanac, country};
use crate::common::with;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use onegen_engine::{LoadOptions, Model};
use serde_json::{Value, json};

const EMBEDDINGS: &str = "/v1/embeddings";
const PERU: &str = "What is the capital of Peru?";

async fn embed(server: &Almanac, fields: Value) -> Value {
    let body = with(json!({"model": "onegen"}), fields);
    server.done("POST", EMBEDDINGS, body).await
}

fn vector(list: &Value, at: usize) -> Vec<f64> {
    let numbers = list["data"][at]["embedding"].as_array().unwrap();
    numbers.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn a_query_is_nearest_to_the_document_that_answers_it_with_the_score_of_a_search() {
    let server = Almanac::start().await;
    let texts = ["Peru", "Chile", "Japan"].map(|name| country(name)["text"].clone());
    let documents = embed(&server, json!({"input": texts})).await;
    assert_eq!(documents["object"], "list");
    assert_eq!(documents["model"], "onegen");
    let query = embed(&server, json!({"input": PERU, "input_type": "query"})).await;
    let query = vector(&query, 0);
    assert!((cosine(&query, &query) - 1.0).abs() < 1e-5);
    let scores = [0, 1, 2].map(|at| {
        assert_eq!(documents["data"][at]["index"], at);
        assert_eq!(documents["data"][at]["object"], "embedding");
        cosine(&query, &vector(&documents, at))
    });
    assert!(scores[0] > scores[1] && scores[0] > scores[2], "{scores:?}");

    // What an index holds of the same text without a title.
    let peru = json!({"id": "untitled", "text": texts[0]});
    server.done("PUT", "/v1/documents", peru).await;
    let search = json!({"query": PERU, "max_num_results": 50});
    let page = server
        .done("POST", "/v1/vector_stores/default/search", search)
        .await;
    let mut hits = page["data"].as_array().unwrap().iter();
    let hit = hits.find(|hit| hit["file_id"] == "untitled").unwrap();
    assert!((hit["score"].as_f64().unwrap() - scores[0]).abs() < 1e-5);
}

#[tokio::test]
async fn base64_holds_the_same_numbers_and_usage_counts_what_was_forwarded() {
    let server = Almanac::start().await;
    let model = crate::common::almanac::models().join("almanac");
    let model = Model::load(&model, &LoadOptions::default()).unwrap();
    for (input_type, text) in [("document", "Lima is a city."), ("query", PERU)] {
        let fields = json!({"input": [text, text], "input_type": input_type});
        let before = server.metric("onegen_embedded_tokens_total").await;
        let floats = embed(&server, fields.clone()).await;
        let coded = embed(&server, with(fields, json!({"encoding_format": "base64"}))).await;
        for at in [0, 1] {
            let bytes = coded["data"][at]["embedding"].as_str().unwrap();
            let bytes = BASE64_STANDARD.decode(bytes).unwrap();
            let numbers: Vec<f64> = bytes
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes(four.try_into().unwrap()).into())
                .collect();
            assert_eq!(numbers.len(), model.hidden_size());
            let shown = vector(&floats, at);
            assert!(
                numbers
                    .iter()
                    .zip(&shown)
                    .all(|(a, b)| (*a as f32) == (*b as f32))
            );
        }
        let ids = match input_type {
            "query" => model.tokens().encode_query(text).unwrap(),
            _ => model.tokens().passage_ids("", text).unwrap(),
        };
        let tokens = 2 * ids.len();
        assert_eq!(
            floats["usage"],
            json!({"prompt_tokens": tokens, "total_tokens": tokens})
        );
        // Both answers forwarded them.
        let forwarded = server.metric("onegen_embedded_tokens_total").await - before;
        assert_eq!(forwarded, 2.0 * tokens as f64);
    }
}

#[tokio::test]
async fn many_texts_are_each_embedded_as_one_alone_is() {
    let server = Almanac::start().await;
    let texts: Vec<String> = (0..60)
        .map(|n| format!("{} {n}", "Lima is a city. ".repeat(n % 13)))
        .collect();
    let together = embed(&server, json!({"input": texts})).await;
    assert_eq!(together["data"].as_array().unwrap().len(), 60);
    for at in [0, 12, 59] {
        let alone = embed(&server, json!({"input": texts[at]})).await;
        assert_eq!(
            alone["data"][0]["embedding"],
            together["data"][at]["embedding"]
        );
    }
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_by_the_field_at_fault() {
    let server = Almanac::start().await;
    let width = vector(&embed(&server, json!({"input": "x"})).await, 0).len();
    embed(&server, json!({"input": "x", "dimensions": width})).await;
    let endless = "word ".repeat(3000);
    for (fields, param) in [
        (json!({}), "input"),
        (json!({"input": null}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ["x", ""]}), "input[1]"),
        (json!({"input": [1, 2, 3]}), "input"),
        (json!({"input": [[1, 2], [3]]}), "input"),
        (json!({"input": {"text": "x"}}), "input"),
        (json!({"input": vec!["x"; 2049]}), "input"),
        (json!({"input": ["x", endless]}), "input[1]"),
        (json!({"input": endless, "input_type": "query"}), "input"),
        (json!({"input": "x", "dimensions": 8}), "dimensions"),
        (
            json!({"input": "x", "encoding_format": "int8"}),
            "encoding_format",
        ),
        (json!({"input": "x", "input_type": "passage"}), "input_type"),
    ] {
        let body = with(json!({"model": "onegen"}), fields);
        let refused = server.refused_at("POST", EMBEDDINGS, body).await;
        assert_eq!((refused.0, refused.2), (400, json!(param)), "{}", refused.3);
    }
    let body = json!({"model": "text-embedding-3-small", "input": "x"});
    let refused = server.refused_at("POST", EMBEDDINGS, body).await;
    assert_eq!((refused.0, &*refused.1), (404, "model_not_found"));
}
