//! A collection in a real database, beside one in a directory: answered from, changed, forgotten, and away.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use onegen_index::{Index, RemoteCollection, RemoteOptions, push};
use onegen_server::{App, Config};
use serde_json::{Value, json};

use crate::common::almanac::{Countries, zembla};
use crate::common::milvus::Milvus;
use crate::common::postgres::Postgres;
use crate::common::{Server, by_id, content, conversation, count, question, with};

const PERU: &str = "What is the capital of Peru?";
const ZEMBLA: &str = "What is the capital of Zembla?";

enum Database {
    Postgres(Postgres),
    Milvus(Milvus),
}

/// Calls a method of the database, whichever it is.
macro_rules! of_database {
    ($database:expr, $method:ident($($argument:expr),*)) => {
        match $database {
            Database::Postgres(database) => database.$method($($argument),*),
            Database::Milvus(database) => database.$method($($argument),*),
        }
    };
}

/// Makes two tests of each function: with PostgreSQL, and with Milvus.
macro_rules! in_each {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(|| Some(super::Database::Postgres(super::Postgres::start()?))).await;
            })*
        }
        mod milvus {
            $(#[tokio::test]
            async fn $name() {
                super::$name(|| Some(super::Database::Milvus(super::Milvus::start()?))).await;
            })*
        }
    };
}

in_each!(
    a_collection_in_a_database_is_answered_from_and_changed_like_one_in_a_directory,
    a_turn_fails_or_goes_on_as_it_was_asked_to_while_the_database_is_away,
    a_server_outlives_its_database_and_its_conversations_outlive_the_server,
);

/// Starts a database, where it is installed.
type StartDatabase = fn() -> Option<Database>;

struct World {
    database: Database,
    files: Countries,
    config: Config,
    server: Server,
}

/// A server whose collection `wiki`, of the almanac's countries, is in a database, and `default` in a directory.
async fn start(database: StartDatabase) -> Option<World> {
    let database = tokio::task::spawn_blocking(database).await.unwrap()?;
    let files = Countries::write();
    let dir = {
        let app = App::load(&files.config(&[])).unwrap();
        let store = app.collections().iter().next().unwrap().store();
        store.dir().unwrap().to_owned()
    };
    let address = of_database!(&database, address("wiki"));
    let pushing = (dir.clone(), address.parse().unwrap());
    let pushed = move || {
        let index = Index::open(&pushing.0).unwrap();
        drop(push(&index, &pushing.1, RemoteOptions::default(), |_| ()).unwrap());
    };
    tokio::task::spawn_blocking(pushed).await.unwrap();
    let (dir, wiki) = (dir.display().to_string(), format!("wiki={address}"));
    let config = files.config(&["--index", &dir, "--index", &wiki]);
    let server = Server::start(&config).await;
    Some(World {
        database,
        files,
        config,
        server,
    })
}

fn from_wiki(question: Value) -> Value {
    with(question, json!({"retrieval": {"collection": "wiki"}}))
}

fn cited(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["annotations"][0]["url_citation"]["title"]
}

async fn a_collection_in_a_database_is_answered_from_and_changed_like_one_in_a_directory(
    database: StartDatabase,
) {
    let Some(world) = start(database).await else {
        return;
    };
    let server = &world.server;
    let here = server.complete(&question(PERU)).await;
    let there = server.complete(&from_wiki(question(PERU))).await;
    assert_eq!(content(&here), content(&there));
    assert_eq!(cited(&there), "Peru");
    let receipt = |answer: &Value| answer["onegen"]["retrievals"][0].clone();
    let (receipt_here, receipt_there) = (receipt(&here), receipt(&there));
    assert_eq!(receipt_there["collection"], "wiki");
    assert_eq!(
        receipt_here["passages"][0]["id"],
        receipt_there["passages"][0]["id"]
    );
    let score = |receipt: &Value| receipt["passages"][0]["score"].as_f64().unwrap();
    assert!((score(&receipt_here) - score(&receipt_there)).abs() < 1e-5);

    let put = with(zembla("Onhava"), json!({"collection": "wiki"}));
    server.done("PUT", "/v1/documents", put).await;
    let answer = server.complete(&from_wiki(question(ZEMBLA))).await;
    assert!(content(&answer).contains("Onhava"), "{answer}");
    let id = conversation(&answer).to_owned();
    let only_there = server.complete(&question(ZEMBLA)).await;
    assert_ne!(cited(&only_there), "Zembla");
    let got = server
        .done(
            "GET",
            "/v1/documents/country%2Fzembla?collection=wiki",
            Value::Null,
        )
        .await;
    assert_eq!(got["collection"], "wiki");
    assert_eq!(got["metadata"], zembla("Onhava")["metadata"]);
    let search = json!({"query": ZEMBLA, "max_num_results": 2});
    let found = server
        .done("POST", "/v1/vector_stores/wiki/search", search)
        .await;
    assert_eq!(found["data"][0]["file_id"], "country/zembla");
    let stores = server.done("GET", "/v1/vector_stores", Value::Null).await;
    let wiki = stores["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|store| store["id"] == "wiki");
    assert_eq!(wiki.unwrap()["file_counts"]["total"], 6);
    if let Database::Postgres(_) = world.database {
        assert!(count(&wiki.unwrap()["usage_bytes"]) > 0);
    }

    // After it is deleted nothing answers from it, also where it was read before.
    let deleted = server
        .done(
            "DELETE",
            "/v1/documents/country%2Fzembla?collection=wiki",
            Value::Null,
        )
        .await;
    assert_eq!(
        (&deleted["passages"], &deleted["conversations"]),
        (&json!(1), &json!(1))
    );
    let (status, error) = server
        .refused(&from_wiki(by_id(&id, "And its currency?")))
        .await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("conversation_holds_deleted_document"))
    );
    let answer = server.complete(&from_wiki(question(ZEMBLA))).await;
    assert!(!answer.to_string().contains("Onhava"), "{answer}");

    // PostgreSQL has no NUL, and Milvus no metadata of any length.
    let metadata = json!({"long": "x".repeat(70_000)});
    let odd = match world.database {
        Database::Postgres(_) => json!({"text": "a\u{0}b"}),
        Database::Milvus(_) => json!({"text": "a", "metadata": metadata}),
    };
    let odd = with(json!({"id": "odd", "title": "", "collection": "wiki"}), odd);
    let (status, code, ..) = server.refused_at("PUT", "/v1/documents", odd).await;
    assert_eq!((status, code.as_str()), (400, "invalid_value"));
    assert_eq!(
        server
            .metric("onegen_collection_circuit_open{collection=\"wiki\"}")
            .await,
        0.0
    );
    assert!(
        server
            .metric("onegen_collection_calls_total{collection=\"wiki\",outcome=\"answered\"}")
            .await
            > 5.0
    );
}

async fn a_turn_fails_or_goes_on_as_it_was_asked_to_while_the_database_is_away(
    database: StartDatabase,
) {
    let Some(world) = start(database).await else {
        return;
    };
    let server = &world.server;
    let read = server.complete(&from_wiki(question(PERU))).await;
    let id = conversation(&read).to_owned();
    of_database!(&world.database, freeze());

    let (status, error) = server.refused(&from_wiki(question(PERU))).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (503, &json!("collection_unreachable"))
    );
    let go_on = json!({"retrieval": {"collection": "wiki", "on_error": "continue"}});
    let answer = server.complete(&with(question(PERU), go_on)).await;
    assert_eq!(answer["onegen"]["retrievals"], json!([]));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // Whether what was read may still be used cannot be known.
    let (status, _) = server
        .refused(&from_wiki(by_id(&id, "And its currency?")))
        .await;
    assert_eq!(status.as_u16(), 503);
    // Nobody waits for it who asks something else.
    let began = Instant::now();
    assert_eq!(cited(&server.complete(&question(PERU)).await), "Peru");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let put = with(zembla("Onhava"), json!({"collection": "wiki"}));
    for _ in 0..2 {
        let (status, code, ..) = server.refused_at("PUT", "/v1/documents", put.clone()).await;
        assert_eq!((status, code.as_str()), (503, "collection_unreachable"));
    }
    assert_eq!(
        server
            .metric("onegen_collection_circuit_open{collection=\"wiki\"}")
            .await,
        1.0
    );

    of_database!(&world.database, thaw());
    let end = Instant::now() + Duration::from_secs(20);
    while server.send(&from_wiki(question(PERU))).await.status() != 200 {
        assert!(Instant::now() < end, "it is not asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let going_on = server
        .complete(&from_wiki(by_id(&id, "And its currency?")))
        .await;
    assert_eq!(conversation(&going_on), id);
}

async fn a_server_outlives_its_database_and_its_conversations_outlive_the_server(
    database: StartDatabase,
) {
    let Some(mut world) = start(database).await else {
        return;
    };
    let read = world.server.complete(&from_wiki(question(PERU))).await;
    let id = conversation(&read).to_owned();
    of_database!(&mut world.database, kill());
    world.server.stop();
    world.server.stopped().await;
    let config = world.config.clone();
    let load = tokio::task::spawn_blocking(move || App::load(&config).err().unwrap());
    let error = load.await.unwrap();
    assert!(
        format!("{error:#}").contains("cannot be reached"),
        "{error:#}"
    );
    of_database!(&mut world.database, run());
    // It may serve a while before it has the collection.
    let address = of_database!(&world.database, address("wiki"));
    let is_back = move || {
        let address = address.parse().unwrap();
        let end = Instant::now() + Duration::from_secs(90);
        while let Err(error) = RemoteCollection::open(&address, RemoteOptions::default()) {
            assert!(Instant::now() < end, "it does not come back: {error}");
        }
    };
    tokio::task::spawn_blocking(is_back).await.unwrap();
    let server = Server::start(&world.config).await;
    let going_on = server
        .complete(&from_wiki(by_id(&id, "And its currency?")))
        .await;
    assert_eq!(conversation(&going_on), id);
    drop(world.files);
}
