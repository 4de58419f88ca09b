//! Several servers with one store of conversations: each goes on with what another one has begun, also when that
//! one was killed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::almanac::{Countries, zembla};
use crate::common::postgres::Postgres;
use crate::common::process::{End, Process, command};
use crate::common::{
    Client, Files, Server, by_id, cached, content, conversation, count, question, transcript, with,
};

const PERU: &str = "What is the capital of Peru?";
const CURRENCY: &str = "And its currency?";
const LANGUAGE: &str = "And its language?";

/// A database, and servers that share a table of it.
struct World {
    postgres: Postgres,
    // The files of a server are deleted with this.
    _files: Vec<Countries>,
    servers: Vec<Server>,
}

impl World {
    async fn start(servers: usize) -> Option<Self> {
        let started = tokio::task::spawn_blocking(Postgres::start).await;
        let postgres = started.unwrap()?;
        let files: Vec<_> = (0..servers).map(|_| Countries::write()).collect();
        let store = postgres.address("talk");
        let mut world = Self {
            postgres,
            servers: Vec::new(),
            _files: Vec::new(),
        };
        for files in files {
            let config = files.config(&["--conversation-store", &store]);
            world.servers.push(Server::start(&config).await);
            world._files.push(files);
        }
        Some(world)
    }

    fn pair(&self) -> [&Server; 2] {
        [&self.servers[0], &self.servers[1]]
    }
}

/// The texts of a conversation's messages, oldest first.
async fn said(server: &Client, id: &str) -> Vec<String> {
    let messages = server.messages(id).await.into_iter();
    messages.map(|(_, text)| text).collect()
}

#[tokio::test]
async fn a_conversation_goes_on_at_another_server_as_where_it_began() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    let alone = Countries::write().serve().await;
    let wanted = alone.complete(&question(PERU)).await;
    let wanted_next = alone
        .complete(&by_id(conversation(&wanted), CURRENCY))
        .await;

    let first = a.complete(&question(PERU)).await;
    let id = conversation(&first);
    let next = b.complete(&by_id(id, CURRENCY)).await;
    assert_eq!(content(&next), content(&wanted_next));
    assert_eq!(conversation(&next), id);
    // The log came along, with its passage, and nothing of it was in this server's cache.
    assert_eq!(
        next["usage"]["prompt_tokens"],
        wanted_next["usage"]["prompt_tokens"]
    );
    assert_eq!(cached(&next), 0);
    // Back where it began only what is new is forwarded.
    let third = a.complete(&by_id(id, LANGUAGE)).await;
    let beginning = count(&first["usage"]["total_tokens"]);
    assert_eq!(cached(&third), beginning - 1);
    assert_eq!(said(a, id).await.len(), 6);
    assert_eq!(said(b, id).await, said(a, id).await);

    // What clients note is known everywhere, and so is a deletion.
    let path = format!("/v1/conversations/{id}");
    let noted = json!({"metadata": {"topic": "Peru"}});
    b.done("POST", &path, noted.clone()).await;
    assert_eq!(a.get_json(&path).await["metadata"], noted["metadata"]);
    a.done("DELETE", &path, Value::Null).await;
    let (status, code, ..) = b.refused_at("GET", &path, Value::Null).await;
    assert_eq!((status, &*code), (404, "conversation_not_found"));
    let (status, _) = b.refused(&by_id(id, LANGUAGE)).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_client_without_ids_is_recognised_at_another_server() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    let first = a.complete(&question(PERU)).await;
    let next = b.complete(&transcript(&[(PERU, &first)], CURRENCY)).await;
    assert_eq!(conversation(&next), conversation(&first));
    // Many others that begin in the same way do not hide it.
    for _ in 0..20 {
        b.complete(&question(PERU)).await;
    }
    let both = [(PERU, &first), (CURRENCY, &next)];
    let third = a.complete(&transcript(&both, LANGUAGE)).await;
    assert_eq!(conversation(&third), conversation(&first));
    assert_eq!(said(b, conversation(&first)).await.len(), 6);
    // Others' conversations are none of theirs.
    let other = b.complete(&transcript(&[(PERU, &next)], CURRENCY)).await;
    assert_ne!(conversation(&other), conversation(&first));
}

#[tokio::test]
async fn a_response_is_continued_and_fetched_at_another_server() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    let first = json!({"model": "onegen", "input": PERU});
    let first = a.done("POST", "/v1/responses", first).await;
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(b.get_json(&path).await["output"], first["output"]);
    let next = json!({"model": "onegen", "input": CURRENCY, "previous_response_id": first["id"]});
    let next = b.done("POST", "/v1/responses", next).await;
    let path = format!("/v1/responses/{}", next["id"].as_str().unwrap());
    assert_eq!(a.get_json(&path).await["id"], next["id"]);
}

#[tokio::test]
async fn while_a_server_runs_a_turn_another_one_refuses_its_own() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    let id = conversation(&a.complete(&question(PERU)).await).to_owned();
    let long = json!({"min_tokens": 200, "max_tokens": 200, "stream": true});
    let mut stream = a
        .send(&with(by_id(&id, CURRENCY), long))
        .await
        .bytes_stream();
    stream.next().await.unwrap().unwrap();
    let waiting = by_id(&id, LANGUAGE);
    let ((status, error), ()) = tokio::join!(b.refused(&waiting), async {
        while let Some(piece) = stream.next().await {
            piece.unwrap();
        }
    });
    let code = json!("conversation_busy");
    assert_eq!((status.as_u16(), &error["code"]), (409, &code));
    // Afterwards it goes on there.
    let next = b.complete(&waiting).await;
    assert_eq!(conversation(&next), id);
    let said = said(b, &id).await;
    assert_eq!(said.len(), 6, "{said:?}");
    assert_eq!((&*said[2], &*said[4]), (CURRENCY, LANGUAGE));
}

#[tokio::test]
async fn the_lease_of_a_server_that_is_gone_runs_out() {
    let Some(world) = World::start(1).await else {
        return;
    };
    let server = &world.servers[0];
    let id = conversation(&server.complete(&question(PERU)).await).to_owned();
    let taken = "UPDATE talk SET holder = 'gone', lease = 0, held_until = now() + interval '2 s'";
    assert!(world.postgres.sql(taken));
    let began = Instant::now();
    server.complete(&by_id(&id, CURRENCY)).await;
    assert!(began.elapsed() > Duration::from_millis(1500));

    // One that is kept is not waited for without end.
    let kept = "UPDATE talk SET holder = 'busy', lease = 0, held_until = now() + interval '1 h'";
    assert!(world.postgres.sql(kept));
    let (status, error) = server.refused(&by_id(&id, LANGUAGE)).await;
    assert_eq!(
        (status.as_u16(), &error["code"]),
        (409, &json!("conversation_busy"))
    );
    assert_eq!(said(server, &id).await.len(), 4);
}

#[tokio::test]
async fn a_server_that_has_lost_its_lease_writes_nothing() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    let id = conversation(&a.complete(&question(PERU)).await).to_owned();
    let long = json!({"min_tokens": 300, "max_tokens": 300, "stream": true});
    let mut stream = a
        .send(&with(by_id(&id, CURRENCY), long))
        .await
        .bytes_stream();
    stream.next().await.unwrap().unwrap();
    // As if it had been asleep for so long that its lease has run out.
    let lost = "UPDATE talk SET holder = NULL, held_until = NULL, version = version + 1";
    assert!(world.postgres.sql(lost));
    let mut text = String::new();
    while let Some(piece) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&piece.unwrap()));
    }
    assert!(text.contains("conversation_busy"), "{text}");
    assert_eq!(said(b, &id).await.len(), 2);
    // And it goes on with what the others have.
    a.complete(&by_id(&id, LANGUAGE)).await;
    assert_eq!(said(b, &id).await[2], LANGUAGE);
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_lost_and_afterwards_all_goes_on() {
    let Some(mut world) = World::start(2).await else {
        return;
    };
    let id = conversation(&world.servers[0].complete(&question(PERU)).await).to_owned();
    world.postgres.kill();
    let code = json!("conversation_store_unreachable");
    let (status, error) = world.servers[0].refused(&by_id(&id, CURRENCY)).await;
    assert_eq!((status.as_u16(), &error["code"]), (503, &code));
    // A new one cannot be kept either, and its client is told.
    let (status, error) = world.servers[1].refused(&question(PERU)).await;
    assert_eq!((status.as_u16(), &error["code"]), (503, &code));
    world.postgres.run();
    // The circuit is closed again after two seconds at most.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let next = world.servers[1].complete(&by_id(&id, CURRENCY)).await;
    assert_eq!(conversation(&next), id);
    assert_eq!(said(&world.servers[0], &id).await.len(), 4);
    let away = world.servers[0].metric("onegen_shared_store_calls_total{outcome=\"failed\"}");
    assert!(away.await >= 1.0);
}

#[tokio::test]
async fn a_deleted_document_leaves_the_shared_log_too() {
    let Some(world) = World::start(2).await else {
        return;
    };
    let [a, b] = world.pair();
    a.done("PUT", "/v1/documents", zembla("Onhava")).await;
    let answer = a
        .complete(&question("What is the capital of Zembla?"))
        .await;
    assert!(content(&answer).contains("Onhava"));
    let has_log = "SELECT 1 / (CASE WHEN log IS NULL THEN 0 ELSE 1 END) FROM talk";
    assert!(world.postgres.sql(has_log));
    a.done("DELETE", "/v1/documents/country%2Fzembla", Value::Null)
        .await;
    assert!(!world.postgres.sql(has_log));
    for server in [a, b] {
        let (status, error) = server
            .refused(&by_id(conversation(&answer), CURRENCY))
            .await;
        let code = json!("conversation_holds_deleted_document");
        assert_eq!((status.as_u16(), &error["code"]), (409, &code));
    }
    let path = format!("/v1/conversations/{}/rebuild", conversation(&answer));
    b.done("POST", &path, Value::Null).await;
    a.complete(&by_id(conversation(&answer), PERU)).await;
}

#[tokio::test]
async fn what_is_known_of_another_table_is_shared_anew() {
    let Some(world) = World::start(1).await else {
        return;
    };
    let files = Countries::write();
    let alone = Server::start(&files.config(&[])).await;
    let before = alone.complete(&question(PERU)).await;
    let id = conversation(&before).to_owned();
    drop_server(alone).await;
    // Begun without a store, then in one table, then in another.
    for table in ["one", "two"] {
        let store = world.postgres.address(table);
        let server = Server::start(&files.config(&["--conversation-store", &store])).await;
        server.complete(&by_id(&id, CURRENCY)).await;
        drop_server(server).await;
    }
    let files = Countries::write();
    let store = world.postgres.address("two");
    let other = Server::start(&files.config(&["--conversation-store", &store])).await;
    assert_eq!(said(&other, &id).await.len(), 6);
}

async fn drop_server(mut server: Server) {
    server.stop();
    server.stopped().await;
}

/// One client's conversation: what was acknowledged, and by which server it is asked for.
struct Chat {
    id: String,
    acknowledged: Vec<String>,
}

fn plain(text: &str) -> Value {
    with(
        question(text),
        json!({"max_tokens": 5, "retrieval": {"enabled": false}}),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_one_of_three_servers_is_killed() {
    let started = tokio::task::spawn_blocking(Postgres::start).await;
    let Some(postgres) = started.unwrap() else {
        return;
    };
    let files = Files::new();
    let store = postgres.address("talk");
    let mut servers: Vec<Process> = (0..3)
        .map(|number| {
            let data = files.data_dir().join(number.to_string());
            let mut command = command(&files, &data);
            command.args(["--conversation-store", &store]);
            Process::spawn(command)
        })
        .collect();
    let urls: Vec<String> = servers.iter().map(|s| s.client.url.clone()).collect();
    let work = |number: usize| {
        let urls = urls.clone();
        async move {
            let mut chats: Vec<Chat> = Vec::new();
            let http = reqwest::Client::new();
            // All ask the server that will be killed.
            let url = format!("{}/v1/chat/completions", urls[0]);
            for turn in 0.. {
                let text = format!("What is {number}.{turn}?");
                let chat = turn % 4;
                let body = match chats.get(chat) {
                    Some(chat) => with(plain(&text), json!({"conversation": chat.id})),
                    None => plain(&text),
                };
                let Ok(response) = http.post(&url).json(&body).send().await else {
                    break;
                };
                let Ok(answer) = response.json::<Value>().await else {
                    break;
                };
                if chats.len() <= chat {
                    let id = conversation(&answer).to_owned();
                    chats.push(Chat {
                        id,
                        acknowledged: Vec::new(),
                    });
                }
                chats[chat].acknowledged.push(text);
                chats[chat].acknowledged.push(content(&answer).to_owned());
            }
            chats
        }
    };
    let clients: Vec<_> = (0..4).map(|number| tokio::spawn(work(number))).collect();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    servers.remove(0).end(End::Killed);
    let killed = Instant::now();
    let mut turns = 0;
    let mut slowest = Duration::ZERO;
    for (number, client) in clients.into_iter().enumerate() {
        for (place, chat) in client.await.unwrap().into_iter().enumerate() {
            let server = &servers[(number + place) % 2].client;
            let began = Instant::now();
            let next = with(plain("What else?"), json!({"conversation": chat.id}));
            let answer = server.complete(&next).await;
            slowest = slowest.max(began.elapsed());
            assert_eq!(conversation(&answer), chat.id);
            let other = &servers[(number + place + 1) % 2].client;
            let said = said(other, &chat.id).await;
            // A turn whose end did not reach its client may be there too, whole.
            let acknowledged = chat.acknowledged.len();
            let extra = said.len() - acknowledged;
            assert!(
                extra == 2 || extra == 4,
                "{said:?} after {:?}",
                chat.acknowledged
            );
            assert_eq!(said[..acknowledged], chat.acknowledged);
            assert_eq!(said[said.len() - 2], "What else?");
            turns += acknowledged / 2;
        }
    }
    println!(
        "{turns} turns were acknowledged before the kill; all were continued within {:.1} s, the slowest turn took \
         {:.1} s",
        killed.elapsed().as_secs_f64(),
        slowest.as_secs_f64()
    );
    assert!(turns > 20, "only {turns} turns: the load was none");
}
