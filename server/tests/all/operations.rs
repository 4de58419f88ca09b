//! Starting, stopping, reloading, and what the server reports about itself.
#![allow(clippy::unwrap_used)]

/// Keys are sorted: another crate of the build decides whether serde_json keeps their order.
macro_rules! assert_snapshot {
    ($name:literal, $value:expr) => {
        insta::with_settings!({sort_maps => true}, {
            insta::assert_json_snapshot!($name, $value);
        });
    };
}

use std::fs;
use std::path::PathBuf;

use crate::common::{Files, Server, chunks, question, with};
use onegen_index::{Change, Index, IndexError};
use onegen_server::{App, openapi};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Where the index of the default collection lies.
fn index_dir(app: &App) -> PathBuf {
    let collection = app.collections().iter().next().unwrap();
    collection.store().dir().unwrap().to_owned()
}

#[tokio::test]
async fn the_openapi_document_is_the_one_that_was_reviewed() {
    let files = Files::new();
    let server = files.serve().await;
    let document = server.get_json("/openapi.json").await;
    assert_eq!(document, openapi());
    assert_snapshot!("openapi", document);
}

#[tokio::test]
async fn the_server_says_what_it_serves_and_that_it_is_ready() {
    let files = Files::new();
    let server = files.serve().await;
    assert_eq!(server.get_json("/healthz").await, json!({"status": "ok"}));
    let ready = json!({
        "status": "ok", "model": "onegen", "passages": 3,
        "collections": [{"name": "default", "passages": 3}],
    });
    assert_eq!(server.get_json("/readyz").await, ready);
    let models = server.get_json("/v1/models").await;
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "onegen");
    assert_eq!(models["data"][0]["max_model_len"], crate::common::CONTEXT);
}

#[tokio::test]
async fn metrics_have_vllms_names_from_the_start() {
    let files = Files::new();
    let server = files.serve().await;
    let text = server.get("/metrics").await.text().await.unwrap();
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    names.sort_unstable();
    assert_snapshot!("metrics", names);
}

#[tokio::test]
async fn an_index_is_built_once_and_again_for_a_changed_corpus() {
    let files = Files::new();
    let config = files.config(&[]);
    let built = |dir: &std::path::Path| {
        fs::metadata(dir.join("manifest.json"))
            .unwrap()
            .modified()
            .unwrap()
    };
    // One server at a time: each is gone before the next comes.
    let load = || {
        let app = App::load(&config).unwrap();
        (index_dir(&app), app.collections().passages())
    };
    let (first, _) = load();
    let when = built(&first);
    assert_eq!(load().0, first);
    assert_eq!(built(&first), when);

    let mut corpus = fs::read_to_string(files.corpus()).unwrap();
    corpus.push_str(
        "{\"id\":\"x\",\"title\":\"Lima\",\"text\":\"Lima is a city.\"}\nnot a passage\n",
    );
    fs::write(files.corpus(), corpus).unwrap();
    let (changed, passages) = load();
    assert_ne!(changed, first);
    assert_eq!(passages, 4);

    // A damaged index may hold documents that are not in the corpus, so it is not replaced
    // automatically.
    let manifest = changed.join("manifest.json");
    fs::write(
        &manifest,
        fs::read_to_string(&manifest)
            .unwrap()
            .replace("\"passages\": 4", "\"passages\": 5"),
    )
    .unwrap();
    let error = format!("{:#}", App::load(&config).err().unwrap());
    let dir = changed.display().to_string();
    for part in [
        &*dir,
        "move it away to have it built again",
        "manifest.json",
    ] {
        assert!(error.contains(part), "{error}");
    }
    fs::remove_dir_all(&changed).unwrap();
    assert_eq!(load().1, 4);
}

#[tokio::test]
async fn an_index_of_another_model_is_refused_and_both_are_named() {
    let files = Files::new();
    let built = App::load(&files.config(&[])).unwrap();
    let index = index_dir(&built).to_str().unwrap().to_owned();
    drop(built);
    assert!(App::load(&files.config(&["--index", &index])).is_ok());

    let other = Files::with_seed(8);
    let error = App::load(&other.config(&["--index", &index]))
        .err()
        .unwrap();
    let message = format!("{error:#}");
    for model in [&files, &other] {
        let name = model.model().file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name), "{message}");
    }
    assert!(message.contains("model differ"), "{message}");
}

#[tokio::test]
async fn every_index_is_checked_against_the_model_and_the_collection_is_named() {
    let (files, other) = (Files::new(), Files::with_seed(8));
    let [own, foreign] = [&files, &other].map(|files| {
        let app = App::load(&files.config(&[])).unwrap();
        index_dir(&app).to_str().unwrap().to_owned()
    });
    let own = format!("own={own}");
    let foreign = format!("foreign={foreign}");
    let error = App::load(&files.config(&["--index", &own, "--index", &foreign]))
        .err()
        .unwrap();
    let message = format!("{error:#}");
    assert!(message.contains("collection \"foreign\""), "{message}");
    assert!(message.contains("model differ"), "{message}");
}

#[tokio::test]
async fn two_collections_of_one_name_are_refused_and_both_are_named() {
    let files = Files::new();
    let second = files.dir.path().join("second.jsonl");
    fs::copy(files.corpus(), &second).unwrap();
    let second = second.to_str().unwrap();
    let error = App::load(&files.config(&["--corpus", second])).err();
    let message = error.unwrap().to_string();
    for path in [files.corpus().to_str().unwrap(), second] {
        assert!(message.contains(path), "{message}");
    }
    // Before anything was built.
    assert!(!files.data_dir().exists());

    let named = format!("second={second}");
    let app = App::load(&files.config(&["--corpus", &named])).unwrap();
    let names: Vec<_> = app.collections().iter().map(|c| c.name()).collect();
    assert_eq!(names, ["default", "second"]);
}

#[tokio::test]
async fn an_index_that_somebody_else_changes_is_searched_all_the_same() {
    let files = Files::new();
    let dir = index_dir(&App::load(&files.config(&[])).unwrap());
    let changed_here = Index::open_for_changes(&dir).unwrap();
    let config = files.config(&["--index", dir.to_str().unwrap()]);
    let app = App::load(&config).unwrap();
    assert_eq!(app.collections().passages(), 3);
    let change = || vec![Change::Delete { id: "x".into() }];
    let served = app.collections().iter().next().unwrap().store();
    let refused = served.apply(change()).unwrap_err();
    assert!(matches!(refused, IndexError::ReadOnly { .. }), "{refused}");
    drop((app, changed_here));

    // Nothing else holds the index, so the server could change it.
    let app = App::load(&config).unwrap();
    let served = app.collections().iter().next().unwrap().store();
    assert!(served.apply(change()).is_ok());
}

#[tokio::test]
async fn a_start_without_anything_to_retrieve_from_says_what_to_do() {
    let files = Files::new();
    let mut config = files.config(&[]);
    config.model.corpus.clear();
    let error = App::load(&config).err().unwrap().to_string();
    assert!(
        error.contains("--index") && error.contains("--corpus"),
        "{error}"
    );
}

#[tokio::test]
async fn answers_under_way_are_finished_before_the_server_stops() {
    let files = Files::new();
    let mut server: Server = files.serve().await;
    let long = json!({"stream": true, "logit_bias": files.bias(false), "max_tokens": 400});
    let mut response = server.send(&with(question("Hello!"), long)).await;
    let mut text = String::from_utf8(response.chunk().await.unwrap().unwrap().to_vec()).unwrap();
    server.stop();
    text.push_str(&response.text().await.unwrap());
    let last: Value = chunks(&text).pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    let (http, url) = (server.http.clone(), server.url.clone());
    server.stopped().await;
    assert!(http.get(url).send().await.is_err());
}

#[tokio::test]
async fn a_browser_of_another_origin_may_ask() {
    let files = Files::new();
    let server = files.serve().await;
    let preflight = server
        .http
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/v1/chat/completions", server.url),
        )
        .header("origin", "https://example.org")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,x-own")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), StatusCode::OK);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    // `*` would not include `authorization`.
    let allowed = &preflight.headers()["access-control-allow-headers"];
    assert_eq!(allowed, "authorization,x-own");
    // But it may not change what all share.
    let page = |origin: &str| {
        let request = server.http.put(format!("{}/v1/documents", server.url));
        let document = serde_json::json!({"id": "a", "text": "A text."});
        request.header("origin", origin).json(&document).send()
    };
    let refused = page("https://example.org").await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let own = page(&server.url).await.unwrap();
    assert_eq!(own.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_keeps_its_clients_id_if_that_is_plain() {
    let files = Files::new();
    let server = files.serve().await;
    let answered = async |id: &str| {
        let request = server.http.get(format!("{}/healthz", server.url));
        let response = request.header("x-request-id", id).send().await.unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(answered("req-1:a/b").await, "req-1:a/b");
    for odd in ["a key=other", "a\"b", &"x".repeat(129)] {
        assert_ne!(answered(odd).await, odd);
    }
}

/// Asks the server to read everything again, and gives what it says of it.
async fn reload(server: &Server) -> Value {
    let url = format!("{}/v1/admin/reload", server.url);
    let response = server.http.post(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

/// How many passages are served.
async fn served(server: &Server) -> Value {
    server.get_json("/readyz").await["passages"].clone()
}

#[tokio::test]
async fn an_index_whose_link_was_switched_is_served_after_a_reload_without_a_stop() {
    let (files, larger) = (Files::new(), Files::new());
    let mut corpus = fs::read_to_string(larger.corpus()).unwrap();
    corpus.push_str("{\"id\":\"x\",\"title\":\"Lima\",\"text\":\"Lima is a city.\"}\n");
    fs::write(larger.corpus(), corpus).unwrap();
    let [old, new] = [&files, &larger].map(|made_by| {
        let mut config = files.config(&[]);
        config.model.data_dir = made_by.dir.path().join("built");
        config.model.corpus[0].path = made_by.corpus();
        index_dir(&App::load(&config).unwrap())
    });
    let link = files.dir.path().join("current");
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let server = Server::start(&files.config(&["--index", link.to_str().unwrap()])).await;
    assert_eq!(served(&server).await, 3);
    // Nothing has changed.
    assert_eq!(
        reload(&server).await,
        json!({"collections": [], "failed": []})
    );

    let long = json!({"stream": true, "logit_bias": files.bias(false), "max_tokens": 3000});
    let mut under_way = server.send(&with(question("Hello!"), long)).await;
    under_way.chunk().await.unwrap().unwrap();
    let switched = files.dir.path().join("switched");
    std::os::unix::fs::symlink(&new, &switched).unwrap();
    fs::rename(&switched, &link).unwrap();
    assert_eq!(reload(&server).await["collections"], json!(["default"]));
    assert_eq!(served(&server).await, 4);
    assert!(under_way.text().await.unwrap().contains("[DONE]"));
    // The old one is free for others, the new one is held.
    assert!(Index::open_for_changes(&old).is_ok());
    let held = Index::open_for_changes(&new);
    assert!(matches!(held, Err(IndexError::Locked { .. })));

    // If the path leads to something that is not an index, the served index stays.
    fs::remove_file(&link).unwrap();
    let failed = json!({"collections": [], "failed": ["collection default"]});
    assert_eq!(reload(&server).await, failed);
    assert_eq!(served(&server).await, 4);
}

#[tokio::test]
async fn a_changed_corpus_and_anothers_changes_are_served_after_a_reload() {
    let files = Files::new();
    let server = files.serve().await;
    let mut corpus = fs::read_to_string(files.corpus()).unwrap();
    corpus.push_str("{\"id\":\"x\",\"title\":\"Lima\",\"text\":\"Lima is a city.\"}\n");
    fs::write(files.corpus(), corpus).unwrap();
    assert_eq!(reload(&server).await["collections"], json!(["default"]));
    assert_eq!(served(&server).await, 4);
    drop(server);

    let other = Files::new();
    let dir = index_dir(&App::load(&other.config(&[])).unwrap());
    let changed_here = Index::open_for_changes(&dir).unwrap();
    let server = Server::start(&other.config(&["--index", dir.to_str().unwrap()])).await;
    let delete = Change::Delete {
        id: "element-gold".into(),
    };
    changed_here.apply(vec![delete]).unwrap();
    assert_eq!(served(&server).await, 3);
    reload(&server).await;
    assert_eq!(served(&server).await, 2);
}
