//! Access rights of keys, and the owners of conversations.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::common::{
    Client, Files, Server, content, conversation, count, envelope, question, with,
};
use onegen_server::{NewKey, Scope};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const PERU: &str = "What is the capital of Peru?";

/// A server that requires keys, and clients with keys.
struct KeyedServer {
    files: Files,
    server: Server,
    alice: Client,
    bob: Client,
    /// May search the collection `second` only.
    narrow: Client,
    librarian: Client,
    admin: Client,
    secrets: Vec<String>,
}

fn keys_file(files: &Files) -> std::path::PathBuf {
    files.dir.path().join("keys.toml")
}

impl KeyedServer {
    async fn new(more: &[&str]) -> Self {
        let files = Files::new();
        let mut text = String::new();
        let mut secrets = Vec::new();
        let mut new = |name: &str, scope, collections| {
            let key = NewKey::new(name.to_owned(), vec![scope], collections);
            secrets.push(key.key().to_owned());
            text += &key.entry().unwrap();
        };
        new("alice", Scope::Chat, None);
        new("bob", Scope::Chat, None);
        new("narrow", Scope::Chat, Some(vec!["second".to_owned()]));
        new("librarian", Scope::Documents, None);
        new("admin", Scope::Admin, None);
        fs::write(keys_file(&files), text).unwrap();
        let server = Self::serve(&files, more).await;
        let client = |at: usize| server.with_key(&secrets[at]);
        Self {
            alice: client(0),
            bob: client(1),
            narrow: client(2),
            librarian: client(3),
            admin: client(4),
            files,
            server,
            secrets,
        }
    }

    async fn serve(files: &Files, more: &[&str]) -> Server {
        let second = files.dir.path().join("second.jsonl");
        fs::copy(files.corpus(), &second).unwrap();
        let second = format!("second={}", second.to_str().unwrap());
        let keys = keys_file(files);
        let mut arguments = vec!["--api-keys", keys.to_str().unwrap(), "--corpus", &second];
        arguments.extend(more);
        Server::start(&files.config(&arguments)).await
    }

    async fn put_document(&self, client: &Client) -> Response {
        let url = format!("{}/v1/documents", client.url);
        let document = json!({"id": "peru", "title": "Peru", "text": "A country."});
        client.http.put(url).json(&document).send().await.unwrap()
    }

    /// Short answers without retrievals.
    fn short(&self) -> Value {
        self.files.without_retrieval(6)
    }
}

async fn refusal(response: Response) -> (StatusCode, Option<String>, Value) {
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    let status = response.status();
    (status, challenge, envelope(response.json().await.unwrap()))
}

#[tokio::test]
async fn without_a_key_only_probes_and_documentation_are_open() {
    let keyed = KeyedServer::new(&[]).await;
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(
            keyed.server.get(open).await.status(),
            StatusCode::OK,
            "{open}"
        );
    }
    // A client without a key does not learn which collections there are.
    let ready = keyed.server.get_json("/readyz").await;
    assert_eq!(ready["collections"], json!([]));
    for closed in ["/v1/models", "/metrics", "/v1/no/such/route"] {
        let (status, challenge, error) = refusal(keyed.server.get(closed).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{closed}");
        assert_eq!(challenge.unwrap(), "Bearer realm=\"onegen\"");
        assert_eq!(error["code"], "missing_api_key");
    }
    let (status, _, error) = refusal(keyed.server.send(&question(PERU)).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(error["message"].as_str().unwrap().contains("Bearer"));
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_not_repeated() {
    let keyed = KeyedServer::new(&[]).await;
    let right = &keyed.secrets[0];
    for wrong in ["sk-wrong", &right[..right.len() - 1], &right.to_uppercase()] {
        let client = keyed.server.with_key(wrong);
        let (status, challenge, error) = refusal(client.send(&question(PERU)).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(challenge.unwrap().contains("invalid_token"));
        assert_eq!(error["code"], "invalid_api_key");
        assert!(!error.to_string().contains(wrong));
    }
    let basic = keyed
        .server
        .http
        .get(format!("{}/v1/models", keyed.server.url));
    let basic = basic.basic_auth("alice", Some(right)).send().await.unwrap();
    assert_eq!(refusal(basic).await.2["code"], "missing_api_key");
}

#[tokio::test]
async fn a_key_may_do_what_its_scopes_say_and_is_told_which_one_it_lacks() {
    let keyed = KeyedServer::new(&[]).await;
    let answer = keyed
        .alice
        .complete(&with(question(PERU), keyed.short()))
        .await;
    assert!(!content(&answer).is_empty());
    for client in [&keyed.alice, &keyed.librarian] {
        assert_eq!(client.get("/v1/models").await.status(), StatusCode::OK);
    }
    assert_eq!(keyed.admin.get("/metrics").await.status(), StatusCode::OK);
    for (response, scope) in [
        (keyed.librarian.send(&question(PERU)).await, "chat"),
        (keyed.admin.send(&question(PERU)).await, "chat"),
        (keyed.librarian.get("/v1/conversations/a").await, "chat"),
        (keyed.put_document(&keyed.alice).await, "documents"),
        (keyed.alice.get("/metrics").await, "admin"),
        (keyed.alice.get("/v1/admin/reload").await, "admin"),
    ] {
        let (status, challenge, error) = refusal(response).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(challenge.unwrap().contains(&format!("scope=\"{scope}\"")));
        assert_eq!(error["code"], "insufficient_scope");
        assert!(error["message"].as_str().unwrap().contains(scope));
    }
}

#[tokio::test]
async fn metrics_are_open_to_those_without_a_key_where_a_flag_says_so() {
    let keyed = KeyedServer::new(&["--open-metrics"]).await;
    assert_eq!(keyed.server.get("/metrics").await.status(), StatusCode::OK);
    let (status, ..) = refusal(keyed.server.get("/v1/models").await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_browser_learns_that_a_key_is_wanted() {
    let keyed = KeyedServer::new(&[]).await;
    let url = format!("{}/v1/chat/completions", keyed.server.url);
    let origin = ("origin", "https://example.org");
    let request = |method| {
        let request = keyed.server.http.request(method, &url);
        request.header(origin.0, origin.1)
    };
    let preflight = request(reqwest::Method::OPTIONS)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    let preflight = preflight.send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::OK);
    let refused = request(reqwest::Method::POST).json(&question(PERU));
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(
        refused
            .headers()
            .contains_key("access-control-allow-origin")
    );
    assert!(refused.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn no_other_key_can_read_continue_or_recognise_a_conversation() {
    let keyed = KeyedServer::new(&[]).await;
    let first = keyed
        .alice
        .complete(&with(question(PERU), keyed.short()))
        .await;
    let by_id = |id: &str| {
        let next = with(question("And its currency?"), json!({"conversation": id}));
        with(next, keyed.short())
    };
    // Another key gets the same error as for a conversation that never existed.
    let (status, stolen) = keyed.bob.refused(&by_id(conversation(&first))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, mut never) = keyed.bob.refused(&by_id("conv_never")).await;
    let message = never["message"].as_str().unwrap();
    never["message"] = message.replace("conv_never", conversation(&first)).into();
    assert_eq!(stolen, never);

    let messages = json!([
        {"role": "user", "content": PERU},
        {"role": "assistant", "content": content(&first)},
        {"role": "user", "content": "And its currency?"},
    ]);
    let seen = with(
        json!({"model": "onegen", "messages": messages}),
        keyed.short(),
    );
    let of_bob = keyed.bob.complete(&seen).await;
    assert_ne!(conversation(&of_bob), conversation(&first));
    let of_alice = keyed.alice.complete(&seen).await;
    assert_eq!(conversation(&of_alice), conversation(&first));
    let next = keyed.alice.complete(&by_id(conversation(&first))).await;
    assert_eq!(conversation(&next), conversation(&first));
}

/// The number of cached tokens that a key gets for a prompt that it has never sent.
async fn cached(client: &Client, body: &Value) -> usize {
    crate::common::cached(&client.complete(body).await)
}

#[tokio::test]
async fn a_key_cannot_tell_from_the_cache_what_another_has_asked() {
    let keyed = KeyedServer::new(&[]).await;
    let long = "The same long system prompt. ".repeat(60);
    let body = with(question(&long), keyed.short());
    assert_eq!(cached(&keyed.alice, &body).await, 0);
    assert_eq!(cached(&keyed.bob, &body).await, 0);
    // The test could not fail without sharing: the same key does share.
    assert!(cached(&keyed.alice, &body).await > 0);
    assert!(cached(&keyed.bob, &body).await > 0);
}

#[tokio::test]
async fn conversations_stay_their_keys_after_a_restart() {
    let KeyedServer {
        files,
        mut server,
        alice,
        secrets,
        ..
    } = KeyedServer::new(&[]).await;
    let short = files.without_retrieval(6);
    let first = alice.complete(&with(question(PERU), short.clone())).await;
    server.stop();
    server.stopped().await;
    let next = json!({"conversation": conversation(&first)});
    let next = with(with(question("And its currency?"), next), short);

    let server = KeyedServer::serve(&files, &[]).await;
    let (status, _) = server.with_key(&secrets[1]).refused(&next).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let second = server.with_key(&secrets[0]).complete(&next).await;
    assert_eq!(conversation(&second), conversation(&first));
    drop(server);
}

#[tokio::test]
async fn a_conversation_of_a_server_without_keys_is_no_keys() {
    let files = Files::new();
    let mut server = files.serve().await;
    let short = files.without_retrieval(6);
    let first = server.complete(&with(question(PERU), short.clone())).await;
    server.stop();
    server.stopped().await;
    let key = NewKey::new("alice".to_owned(), vec![Scope::Chat], None);
    let secret = key.key().to_owned();
    fs::write(keys_file(&files), key.entry().unwrap()).unwrap();
    let server = KeyedServer::serve(&files, &[]).await;
    let next = json!({"conversation": conversation(&first)});
    let next = with(with(question("And its currency?"), next), short);
    let (status, _) = server.with_key(&secret).refused(&next).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_that_names_collections_knows_of_no_others() {
    let keyed = KeyedServer::new(&[]).await;
    let forced = |collection: Value| {
        let retrieval = json!({"forced": true, "collection": collection});
        with(
            question(PERU),
            json!({"retrieval": retrieval, "max_tokens": 4}),
        )
    };
    let searched = |answer: Value| answer["onegen"]["retrievals"][0]["collection"].clone();
    assert_eq!(
        searched(keyed.alice.complete(&forced(Value::Null)).await),
        "default"
    );
    // The only collection that this key may see is its default one.
    assert_eq!(
        searched(keyed.narrow.complete(&forced(Value::Null)).await),
        "second"
    );
    let (status, error) = keyed.narrow.refused(&forced("default".into())).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(error["code"], "collection_not_found");
    let (_, never) = keyed.narrow.refused(&forced("never".into())).await;
    let message = never["message"].as_str().unwrap();
    assert_eq!(error["message"], message.replace("never", "default"));
    assert!(message.contains("\"second\""), "{message}");
}

/// All requests about a conversation, except continuing it.
const OF_A_CONVERSATION: [(&str, &str); 5] = [
    ("GET", ""),
    ("GET", "/items"),
    ("POST", "/rebuild"),
    ("POST", "/fork"),
    ("DELETE", ""),
];

#[tokio::test]
async fn a_conversation_is_there_for_its_key_only_whatever_is_asked_of_it() {
    let keyed = KeyedServer::new(&[]).await;
    let said = json!({"items": [{"role": "user", "content": PERU}, {"role": "assistant", "content": "Lima."}]});
    let created = keyed.alice.done("POST", "/v1/conversations", said).await;
    let answered = with(question(PERU), keyed.short());
    let answered = keyed.alice.complete(&answered).await;
    let first = format!("/v1/conversations/{}", conversation(&answered));
    let fork = format!("{first}/fork");
    let forked = keyed.alice.done("POST", &fork, Value::Null).await;
    let ids = [
        &created["id"],
        &answered["onegen"]["conversation"],
        &forked["id"],
    ];
    for id in ids.map(|id| id.as_str().unwrap()) {
        for (method, more) in OF_A_CONVERSATION {
            let path = format!("/v1/conversations/{id}{more}");
            let stolen = keyed.bob.refused_at(method, &path, Value::Null).await;
            let never = path.replace(id, "conv_never");
            let mut never = keyed.bob.refused_at(method, &never, Value::Null).await;
            never.3 = never.3.replace("conv_never", id);
            assert_eq!(stolen, never, "{method} {path}");
            assert_eq!((stolen.0, &*stolen.1), (404, "conversation_not_found"));
        }
        // The test could not fail without a conversation to be found.
        for (method, more) in OF_A_CONVERSATION {
            let path = format!("/v1/conversations/{id}{more}");
            keyed.alice.done(method, &path, Value::Null).await;
        }
    }
}

#[tokio::test]
async fn who_may_chat_reads_and_searches_documents_but_changes_none() {
    let keyed = KeyedServer::new(&[]).await;
    let document = "/v1/documents/country-peru";
    let search = ("POST", "/v1/vector_stores/default/search");
    for client in [&keyed.alice, &keyed.librarian] {
        let read = client.done("GET", document, Value::Null).await;
        assert_eq!(read["title"], "Peru");
        let found = client
            .done(search.0, search.1, json!({"query": PERU}))
            .await;
        assert!(!found["data"].as_array().unwrap().is_empty());
    }
    let delete = keyed
        .alice
        .refused_at("DELETE", document, Value::Null)
        .await;
    assert_eq!((delete.0, &*delete.1), (403, "insufficient_scope"));
    assert_eq!(keyed.put_document(&keyed.alice).await.status(), 403);
    assert_eq!(keyed.put_document(&keyed.librarian).await.status(), 200);
    keyed.librarian.done("DELETE", document, Value::Null).await;
    let gone = keyed.alice.refused_at("GET", document, Value::Null).await;
    assert_eq!((gone.0, &*gone.1), (404, "document_not_found"));

    // A key gets no error that reveals other collections.
    let only_second = "/v1/documents/element-gold?collection=second";
    keyed.narrow.done("GET", only_second, Value::Null).await;
    let elsewhere = only_second.replace("second", "default");
    for (method, path) in [("GET", elsewhere.as_str()), search] {
        let refused = keyed
            .narrow
            .refused_at(method, path, json!({"query": "x"}))
            .await;
        assert_eq!((refused.0, &*refused.1), (404, "collection_not_found"));
    }
}

#[tokio::test]
async fn a_deleted_document_is_gone_from_the_conversations_of_every_key() {
    let keyed = KeyedServer::new(&[]).await;
    let forced = json!({"retrieval": {"forced": true}, "max_tokens": 4});
    let forced = with(question(PERU), forced);
    let answers = [
        keyed.alice.complete(&forced).await,
        keyed.bob.complete(&forced).await,
    ];
    let read = &answers[0]["onegen"]["retrievals"][0]["passages"][0]["id"];
    let path = read.as_str().unwrap().replace('/', "%2F");
    let path = format!("/v1/documents/{path}");
    let deleted = keyed.librarian.done("DELETE", &path, Value::Null).await;
    assert_eq!(deleted["conversations"], 2);
    for (client, answer) in [&keyed.alice, &keyed.bob].into_iter().zip(&answers) {
        let next = json!({"conversation": conversation(answer)});
        let (status, error) = client.refused(&with(question("And?"), next)).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(error["code"], "conversation_holds_deleted_document");
    }
}

#[tokio::test]
async fn a_completion_shares_the_cache_of_its_own_key_only() {
    let keyed = KeyedServer::new(&[]).await;
    let ask = async |client: &Client, fields: Value| {
        let body = json!({"model": "onegen", "prompt": "The same long text. ".repeat(60)});
        let body = with(with(body, keyed.short()), fields);
        let url = format!("{}/v1/completions", client.url);
        client.http.post(url).json(&body).send().await.unwrap()
    };
    // A running completion, whose cache could be shared.
    let long = json!({"stream": true, "max_tokens": 3000});
    let mut running = ask(&keyed.alice, long).await;
    assert!(running.chunk().await.unwrap().is_some());
    let cached = async |client: &Client| {
        let answer: Value = ask(client, json!({})).await.json().await.unwrap();
        count(&answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    };
    assert_eq!(cached(&keyed.bob).await, 0);
    assert!(cached(&keyed.alice).await > 0);
}

#[tokio::test]
async fn a_key_that_loses_a_collection_sees_nothing_of_it_in_its_conversations() {
    let keyed = KeyedServer::new(&[]).await;
    let retrieval = json!({"forced": true, "collection": "default"});
    let body = json!({
        "model": "onegen", "input": PERU, "retrieval": retrieval, "max_output_tokens": 4,
    });
    let response = keyed.alice.done("POST", "/v1/responses", body).await;
    let id = response["conversation"]["id"].as_str().unwrap().to_owned();
    let items = format!("/v1/conversations/{id}/items");
    let read = |list: &Value| {
        let data = list["data"].as_array().unwrap().iter();
        data.filter(|item| item["type"] == "onegen.retrieval")
            .count()
    };
    assert_eq!(read(&keyed.alice.done("GET", &items, Value::Null).await), 1);

    let keys = keys_file(&keyed.files);
    let text = fs::read_to_string(&keys).unwrap();
    let narrowed = text.replacen(
        "name = \"alice\"",
        "name = \"alice\"\ncollections = [\"second\"]",
        1,
    );
    assert_ne!(narrowed, text);
    fs::write(&keys, narrowed).unwrap();
    keyed
        .admin
        .done("POST", "/v1/admin/reload", Value::Null)
        .await;

    let list = keyed.alice.done("GET", &items, Value::Null).await;
    assert_eq!(read(&list), 0);
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    let again = keyed.alice.done("GET", &path, Value::Null).await;
    let names = [list, again].map(|shown| shown.to_string());
    let passage = &response["output"][0]["onegen"]["passages"][0]["id"];
    let passage = passage.as_str().unwrap();
    for shown in names {
        assert!(!shown.contains(passage), "{shown}");
    }
    let next = json!({
        "model": "onegen", "conversation": id, "max_tokens": 4,
        "messages": [{"role": "user", "content": PERU}],
    });
    let (status, error) = keyed.alice.refused(&next).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(!error.to_string().contains(passage), "{error}");
}
