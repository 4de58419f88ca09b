//! Documents that are added and deleted while the server runs.
#![allow(clippy::unwrap_used)]

use crate::common::almanac::{Almanac, Countries, country, zembla};
use crate::common::{Server, content, count, question, with};
use onegen_index::{BuildOptions, DocumentRules, Index, IndexBuilder, Splitter, VectorsPer};
use onegen_server::App;
use serde_json::{Value, json};

const ZEMBLA: &str = "What is the capital of Zembla?";

/// The passage that an answer cites.
fn citation(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["annotations"][0]["url_citation"]
}

#[tokio::test]
async fn a_document_is_answered_from_once_it_is_put_in_and_never_once_it_is_deleted() {
    let server = Almanac::start().await;
    let unknown = server.complete(&question(ZEMBLA)).await;
    assert_ne!(citation(&unknown)["title"], "Zembla");

    let put = server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let listed = json!({"id": "country/zembla", "object": "document", "passages": 1});
    assert_eq!(
        put,
        json!({"object": "list", "collection": "default", "data": [listed]})
    );
    let answer = server.complete(&question(ZEMBLA)).await;
    assert!(content(&answer).contains("Onhava"), "{answer}");
    assert_eq!(citation(&answer)["title"], "Zembla");
    assert_eq!(citation(&answer)["url"], "https://example.org/zembla");

    // After the change the new text is used for answers, and the old one is gone.
    server
        .done("POST", "/v1/documents", zembla("Odevalla"))
        .await;
    let answer = server.complete(&question(ZEMBLA)).await;
    assert!(content(&answer).contains("Odevalla"), "{answer}");
    assert!(!answer.to_string().contains("Onhava"), "{answer}");

    let deleted = server
        .done("DELETE", "/v1/documents/country%2Fzembla", Value::Null)
        .await;
    let told = json!({
        "id": "country/zembla", "object": "document.deleted", "deleted": true,
        "collection": "default", "passages": 1,
        // One has read the text of before.
        "conversations": 2,
    });
    assert_eq!(deleted, told);
    let answer = server
        .complete(&with(question(ZEMBLA), json!({"retrieval": {"k": 100}})))
        .await;
    for gone in ["Odevalla", "Onhava", "country/zembla"] {
        assert!(!answer.to_string().contains(gone), "{answer}");
    }
    let again = server
        .refused_at("DELETE", "/v1/documents/country%2Fzembla", Value::Null)
        .await;
    assert_eq!((again.0, again.1.as_str()), (404, "document_not_found"));
}

#[tokio::test]
async fn what_was_put_in_outlives_the_server_and_is_given_back_as_it_came() {
    let server = Almanac::start().await;
    server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let server = server.restart().await;
    let got = server
        .done(
            "GET",
            "/v1/documents/country%2Fzembla?collection=default",
            Value::Null,
        )
        .await;
    let more = json!({
        "object": "document", "collection": "default", "part": null, "passages": null,
    });
    assert_eq!(got, with(zembla("Onhava"), more));
    let answer = server.complete(&question(ZEMBLA)).await;
    assert!(content(&answer).contains("Onhava"), "{answer}");
}

#[tokio::test]
async fn a_long_document_is_split_and_comes_and_goes_whole() {
    let server = Almanac::start().await;
    let sentence = |n: usize| format!("Room {n} of the palace is {} feet high.", n * 7 % 31);
    let text: Vec<String> = (0..120).map(sentence).collect();
    let text = text.join(" ");
    let palace = json!({"id": "palace", "title": "Palace", "text": text});
    let put = server
        .done(
            "PUT",
            "/v1/documents",
            json!({"documents": [palace, zembla("Onhava")]}),
        )
        .await;
    let passages = put["data"][0]["passages"].as_u64().unwrap();
    assert!(passages > 2, "{put}");
    assert_eq!(put["data"][1]["passages"], 1);

    let whole = server
        .done("GET", "/v1/documents/palace", Value::Null)
        .await;
    assert_eq!(whole["text"], text);
    assert_eq!(whole["part"], Value::Null);
    let parts = whole["passages"].as_array().unwrap();
    assert_eq!(parts.len() as u64, passages);
    let characters: Vec<char> = text.chars().collect();
    for part in parts {
        let at = |key: &str| part["part"][key].as_u64().unwrap() as usize;
        let cut: String = characters[at("start")..at("end")].iter().collect();
        assert_eq!(part["text"], cut);
        let id = part["id"].as_str().unwrap().replace('#', "%23");
        let alone = server
            .done("GET", &format!("/v1/documents/{id}"), Value::Null)
            .await;
        assert_eq!(alone["text"], cut);
        assert_eq!(alone["part"], part["part"]);
        assert_eq!(alone["passages"], Value::Null);
        let refused = server
            .refused_at("DELETE", &format!("/v1/documents/{id}"), Value::Null)
            .await;
        assert_eq!((refused.0, refused.2), (400, json!("id")));
    }

    // A short document replaces a long one, and nothing of the long one is left.
    let short = json!({"id": "palace", "text": "The palace is gone."});
    server.done("PUT", "/v1/documents", short).await;
    let (status, _) = server
        .ask("GET", "/v1/documents/palace%230", Value::Null)
        .await;
    assert_eq!(status, 404);
    let ready = server.get_json("/readyz").await;
    assert_eq!(ready["passages"], 5 + 2);
}

#[tokio::test]
async fn an_upload_with_a_fault_changes_nothing_and_the_fault_is_named() {
    let server = Almanac::start().await;
    let long_id = "x".repeat(513);
    let endless_title = "Zembla ".repeat(2000);
    let many: Vec<Value> = (0..1001)
        .map(|n| json!({"id": n.to_string(), "text": "x"}))
        .collect();
    for (body, param) in [
        (json!({"id": "a"}), "text"),
        (json!({"text": "a"}), "id"),
        (json!({"id": "", "text": "a"}), "id"),
        (json!({"id": long_id, "text": "a"}), "id"),
        (json!({"id": "a#0", "text": "a"}), "id"),
        (json!({"id": 7, "text": "a"}), "id"),
        (json!({"id": "a", "text": " \n"}), "text"),
        (json!({"id": "a", "text": "a", "metadata": []}), "metadata"),
        (
            json!({"id": "a", "text": "a", "collection": 1}),
            "collection",
        ),
        (
            json!({"id": "a", "title": endless_title, "text": "a"}),
            "text",
        ),
        (
            json!({"id": "a", "text": "a", "url": "x".repeat(9 << 10)}),
            "url",
        ),
        (
            json!({"id": "a", "text": "a", "metadata": {"x": "y".repeat(70 << 10)}}),
            "metadata",
        ),
        (json!({"documents": []}), "documents"),
        (json!({"documents": {}}), "documents"),
        (json!({"documents": many}), "documents"),
        (
            json!({"documents": [zembla("A"), {"id": "a"}]}),
            "documents[1].text",
        ),
        (
            json!({"documents": [zembla("A"), {"id": "a", "text": ""}]}),
            "documents[1].text",
        ),
        (
            json!({"documents": [zembla("A"), zembla("B")]}),
            "documents[1].id",
        ),
        (
            json!({"documents": [zembla("A"), with(zembla("B"), json!({"collection": "default"}))]}),
            "documents[1].collection",
        ),
        (
            json!({"documents": [zembla("A"), {"id": "a", "title": endless_title, "text": "a"}]}),
            "documents[1].text",
        ),
    ] {
        let (status, code, at, message) = server.refused_at("PUT", "/v1/documents", body).await;
        assert_eq!(
            (status, code.as_str(), at),
            (400, "invalid_value", json!(param)),
            "{message}"
        );
    }
    let nowhere = with(zembla("A"), json!({"collection": "atlantis"}));
    let (status, code, at, _) = server.refused_at("PUT", "/v1/documents", nowhere).await;
    assert_eq!(
        (status, code.as_str(), at),
        (404, "collection_not_found", json!("collection"))
    );
    for (path, code) in [
        ("/v1/documents/country%2Fzembla", "document_not_found"),
        (
            "/v1/documents/country-peru?collection=atlantis",
            "collection_not_found",
        ),
    ] {
        assert_eq!(server.refused_at("GET", path, Value::Null).await.1, code);
    }
    let not_utf8 = server
        .refused_at("GET", "/v1/documents/%ff", Value::Null)
        .await;
    assert_eq!(not_utf8.0, 400);
    assert_eq!(server.get_json("/readyz").await["passages"], 5);
}

#[tokio::test]
async fn a_collection_that_is_changed_elsewhere_refuses_changes_and_is_read_all_the_same() {
    let files = Countries::write();
    let dir = {
        let app = onegen_server::App::load(&files.config(&[])).unwrap();
        let store = app.collections().iter().next().unwrap().store();
        store.dir().unwrap().to_owned()
    };
    let _elsewhere = Index::open_for_changes(&dir).unwrap();
    let index = dir.display().to_string();
    let server = Server::start(&files.config(&["--index", &index])).await;
    for (method, path, body) in [
        ("PUT", "/v1/documents", zembla("Onhava")),
        ("DELETE", "/v1/documents/country-peru", Value::Null),
    ] {
        let (status, code, ..) = server.refused_at(method, path, body).await;
        assert_eq!((status, code.as_str()), (409, "collection_read_only"));
    }
    let peru = server
        .done("GET", "/v1/documents/country-peru", Value::Null)
        .await;
    assert_eq!(peru["text"], country("Peru")["text"]);
}

/// Answers continue while documents are embedded.
#[tokio::test]
async fn an_upload_holds_no_answer_back() {
    let server = Almanac::start().await;
    let documents: Vec<Value> = (0..300)
        .map(|n| with(zembla(&format!("Onhava {n}")), json!({"id": n.to_string()})))
        .collect();
    let upload = server.ask("PUT", "/v1/documents", json!({"documents": documents}));
    let asking = async {
        let mut answers = 0;
        loop {
            server
                .complete(&question("What is the capital of Peru?"))
                .await;
            answers += 1;
            let readiness = server.get_json("/readyz").await;
            if readiness["passages"] != 5 || answers == 1000 {
                return answers;
            }
        }
    };
    let ((status, _), answers) = tokio::join!(upload, asking);
    assert_eq!(status, 200);
    println!("{answers} answers during an upload of 300 documents");
    assert!((3..1000).contains(&answers), "{answers}");
}

#[tokio::test]
async fn an_upload_becomes_passages_and_vectors_as_the_indexs_own_documents_did() {
    let countries = Countries::write();
    let dir = countries.path("sentences");
    let config = countries.config(&[]);
    let app = App::load(&config).unwrap();
    let manifest = app
        .collections()
        .iter()
        .next()
        .unwrap()
        .store()
        .directory()
        .unwrap()
        .manifest()
        .clone();
    drop(app);
    // One vector for each sentence, and short passages.
    let rules = DocumentRules {
        vectors: VectorsPer::Sentence,
        split: Splitter::new(40, 8).unwrap(),
    };
    let dimension = manifest.dimension as usize;
    let mut options = BuildOptions::new(dimension, manifest.fingerprints);
    options.documents = Some(rules);
    let mut builder = IndexBuilder::create(&dir, options).unwrap();
    let passage = serde_json::from_value(country("Peru")).unwrap();
    builder.add(&passage, &[vec![1.0; dimension]]).unwrap();
    builder.finish().unwrap();

    let config = countries.config(&["--index", dir.to_str().unwrap()]);
    let mut server = Server::start(&config).await;
    let put = server.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let passages = count(&put["data"][0]["passages"]);
    assert!(passages > 1, "{put}");
    let one = json!({"id": "short", "text": "It is small. It is cold. It is far."});
    let put = server.done("PUT", "/v1/documents", one).await;
    assert_eq!(put["data"][0]["passages"], 1);

    server.stop();
    server.stopped().await;
    let index = Index::open(&dir).unwrap();
    let stats = index.stats();
    assert_eq!(stats.passages as usize, 1 + passages + 1);
    let sentences = |text: &str| onegen_index::sentences(text).len() as u64;
    let of_document = index.document("country/zembla").unwrap();
    let of_document: u64 = of_document.iter().map(|p| sentences(&p.text)).sum();
    assert_eq!(stats.vectors, 1 + of_document + 3);
}
