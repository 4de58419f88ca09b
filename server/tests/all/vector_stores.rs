//! A collection searched as OpenAI's vector store, with the shipped model.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::{Almanac, country, zembla};
use crate::common::{question, with};
use serde_json::{Value, json};

const SEARCH: &str = "/v1/vector_stores/default/search";

fn titles(page: &Value) -> Vec<&str> {
    let data = page["data"].as_array().unwrap();
    data.iter()
        .map(|hit| hit["filename"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_search_finds_what_a_retrieval_finds_in_openais_shape() {
    let server = Almanac::start().await;
    let peru = "What is the capital of Peru?";
    let page = server
        .done("POST", SEARCH, json!({"query": peru, "max_num_results": 1}))
        .await;
    let score = page["data"][0]["score"].clone();
    let expected = json!({
        "object": "vector_store.search_results.page", "search_query": [peru],
        "data": [{
            "file_id": "country-peru", "filename": "Peru", "score": score,
            "attributes": {"kind": "country"},
            "content": [{"type": "text", "text": country("Peru")["text"]}],
            "onegen": {"passage": "country-peru", "url": null},
        }],
        "has_more": false, "next_page": null,
    });
    assert_eq!(page, expected);
    // The same model at the same token: a conversation's first question has the same embedding.
    let answer = server.complete(&question(peru)).await;
    let retrieved = &answer["onegen"]["retrievals"][0]["passages"][0];
    assert_eq!(retrieved["id"], "country-peru");
    let (searched, retrieved) = (
        score.as_f64().unwrap(),
        retrieved["score"].as_f64().unwrap(),
    );
    assert!(
        (searched - retrieved).abs() < 1e-5,
        "{searched} {retrieved}"
    );
}

#[tokio::test]
async fn several_queries_give_each_passage_once_by_its_best_score() {
    let server = Almanac::start().await;
    let ask = async |query: Value| server.done("POST", SEARCH, json!({"query": query})).await;
    let peru = ask(json!("What is the capital of Peru?")).await;
    let japan = ask(json!(["What is the capital of Japan?"])).await;
    let both = ask(json!([
        "What is the capital of Peru?",
        "What is the capital of Japan?"
    ]))
    .await;
    assert_eq!(both["data"].as_array().unwrap().len(), 5);
    let mut first = titles(&both)[..2].to_vec();
    first.sort_unstable();
    assert_eq!(first, ["Japan", "Peru"]);
    for hit in both["data"].as_array().unwrap() {
        let score = |page: &Value| {
            let data = page["data"].as_array().unwrap();
            let same = data.iter().find(|other| other["file_id"] == hit["file_id"]);
            same.unwrap()["score"].as_f64().unwrap()
        };
        assert_eq!(
            hit["score"].as_f64().unwrap(),
            score(&peru).max(score(&japan))
        );
    }
}

#[tokio::test]
async fn filters_and_thresholds_leave_out_what_does_not_fit() {
    let server = Almanac::start().await;
    let island = json!({"metadata": {"kind": "island"}, "id": "zembla"});
    server
        .done("PUT", "/v1/documents", with(zembla("Onhava"), island))
        .await;
    let query = "What is the capital of Peru?";
    let filters = json!({"type": "eq", "key": "kind", "value": "island"});
    let page = server
        .done("POST", SEARCH, json!({"query": query, "filters": filters}))
        .await;
    assert_eq!(titles(&page), ["Zembla"]);
    let all = server.done("POST", SEARCH, json!({"query": query})).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 6);
    let bound = &all["data"][1]["score"];
    let ranking = json!({"score_threshold": bound, "ranker": "auto"});
    let page = server
        .done(
            "POST",
            SEARCH,
            json!({"query": query, "ranking_options": ranking}),
        )
        .await;
    assert_eq!(page["data"], json!(all["data"].as_array().unwrap()[..2]));
}

#[tokio::test]
async fn a_search_that_makes_no_sense_is_refused_by_the_field_at_fault() {
    let server = Almanac::start().await;
    let endless = "What is it? ".repeat(1000);
    for (fields, code, param) in [
        (json!({"query": null}), "invalid_value", "query"),
        (json!({"query": 7}), "invalid_value", "query"),
        (json!({"query": []}), "invalid_value", "query"),
        (json!({"query": ["a", " "]}), "invalid_value", "query[1]"),
        (json!({"query": vec!["a"; 33]}), "invalid_value", "query"),
        (json!({"query": endless}), "invalid_value", "query"),
        (
            json!({"query": ["a", endless]}),
            "invalid_value",
            "query[1]",
        ),
        (
            json!({"max_num_results": 0}),
            "invalid_value",
            "max_num_results",
        ),
        (
            json!({"max_num_results": 51}),
            "invalid_value",
            "max_num_results",
        ),
        (
            json!({"filters": {"type": "like"}}),
            "invalid_value",
            "filters.type",
        ),
        (
            json!({"rewrite_query": true}),
            "unsupported_parameter",
            "rewrite_query",
        ),
        (
            json!({"ranking_options": {"ranker": "default-2024-11-15"}}),
            "unsupported_parameter",
            "ranking_options.ranker \"default-2024-11-15\"",
        ),
        (
            json!({"ranking_options": {"score_threshold": 2}}),
            "invalid_value",
            "ranking_options.score_threshold",
        ),
    ] {
        let body = with(json!({"query": "Peru"}), fields);
        let refused = server.refused_at("POST", SEARCH, body).await;
        assert_eq!(
            (refused.0, &*refused.1, refused.2),
            (400, code, json!(param)),
            "{}",
            refused.3
        );
    }
    let body = json!({"query": "Peru"});
    let nowhere = server
        .refused_at("POST", "/v1/vector_stores/atlantis/search", body)
        .await;
    assert_eq!((nowhere.0, nowhere.2), (404, json!("vector_store_id")));
}

#[tokio::test]
async fn collections_are_listed_and_shown_as_vector_stores() {
    let server = Almanac::start().await;
    let list = server.done("GET", "/v1/vector_stores", Value::Null).await;
    let store = &list["data"][0];
    let passages = server.get_json("/readyz").await["passages"].clone();
    let expected = json!({
        "id": "default", "object": "vector_store", "name": "default", "status": "completed",
        "created_at": store["created_at"], "last_active_at": store["created_at"],
        "usage_bytes": store["usage_bytes"], "metadata": {},
        "expires_after": null, "expires_at": null,
        "file_counts": {
            "in_progress": 0, "completed": passages, "failed": 0, "cancelled": 0, "total": passages,
        },
    });
    assert_eq!(*store, expected);
    assert!(store["created_at"].as_u64() > Some(1_700_000_000));
    assert!(store["usage_bytes"].as_u64() > Some(0));
    let rest = json!({
        "object": "list", "data": [store], "first_id": "default", "last_id": "default",
        "has_more": false,
    });
    assert_eq!(list, rest);
    let one = server
        .done("GET", "/v1/vector_stores/default", Value::Null)
        .await;
    assert_eq!(one, *store);
    let none = server
        .done("GET", "/v1/vector_stores?after=default", Value::Null)
        .await;
    assert_eq!(none["data"], json!([]));
    for (path, code) in [
        ("/v1/vector_stores/other", "collection_not_found"),
        ("/v1/vector_stores?limit=0", "invalid_value"),
        ("/v1/vector_stores?after=other", "item_not_found"),
    ] {
        assert_eq!(server.refused_at("GET", path, Value::Null).await.1, code);
    }
}
