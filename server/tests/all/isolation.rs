//! What belongs to one key is not there for another, on any route of the OpenAPI document.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use crate::common::{Client, Files, Server, envelope, question, with};

/// The ids of one conversation: its own, of a message, and of a response.
struct Ids {
    conversation: String,
    item: String,
    response: String,
}

impl Ids {
    /// Ids of the right form that nobody has ever been given.
    fn never() -> Self {
        Self {
            conversation: "conv_00000000000000000000000000000000".into(),
            item: "msg_00000000000000000000000000000000_1".into(),
            response: "resp_00000000000000000000000000000000".into(),
        }
    }

    /// A text in which no id shows.
    fn hidden(&self, text: &str) -> String {
        let ids = [&self.item, &self.response, &self.conversation];
        ids.iter()
            .fold(text.to_owned(), |text, id| text.replace(*id, "ID"))
    }

    /// Every request that names them: in its path, query or body.
    fn requests(&self, document: &Value) -> Vec<(String, String, Value)> {
        let Self {
            conversation,
            item,
            response,
        } = self;
        let mut requests = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let id = match path.split('/').nth(2) {
                Some("conversations") => conversation,
                Some("responses") => response,
                // Documents, collections and models belong to nobody.
                _ => continue,
            };
            if !path.contains('{') {
                continue;
            }
            let filled = path.replace("{id}", id).replace("{item}", item);
            assert!(!filled.contains('{'), "{path} is new here");
            for (method, operation) in methods.as_object().unwrap() {
                let required = operation["requestBody"]["required"] == true;
                let body = match path.rsplit('/').next() {
                    Some("items") if required => {
                        json!({"items": [{"role": "user", "content": "Mine."}]})
                    }
                    _ if required => json!({"metadata": {"mine": "yes"}}),
                    _ => Value::Null,
                };
                requests.push((method.to_uppercase(), filled.clone(), body));
            }
        }
        let post = |path: &str, body: Value| ("POST".to_owned(), path.to_owned(), body);
        let stream = format!("/v1/stream?conv_id={conversation}");
        let input = |fields: Value| with(json!({"model": "onegen", "input": "And?"}), fields);
        let reference =
            json!([{"type": "item_reference", "id": item}, {"role": "user", "content": "And?"}]);
        requests.extend([
            ("GET".into(), stream.clone(), Value::Null),
            ("DELETE".into(), stream, Value::Null),
            post(
                "/v1/chat/completions",
                with(question("And?"), json!({"conversation": conversation})),
            ),
            post(
                "/v1/responses",
                input(json!({"conversation": conversation})),
            ),
            post(
                "/v1/responses",
                input(json!({"previous_response_id": response})),
            ),
            post(
                "/v1/responses",
                json!({"model": "onegen", "input": reference}),
            ),
            post(
                "/v1/responses/input_tokens",
                input(json!({"previous_response_id": response})),
            ),
            post(
                "/v1/responses/input_tokens",
                input(json!({"conversation": conversation})),
            ),
        ]);
        requests
    }
}

async fn outcome(client: &Client, (method, path, body): &(String, String, Value)) -> (u16, String) {
    let method = method.parse().unwrap();
    let mut request = client.http.request(method, format!("{}{path}", client.url));
    if !body.is_null() {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn what_belongs_to_one_key_is_never_there_for_another() {
    let files = Files::new();
    let (keys, made) = files.write_keys(["alice", "bob"]);
    let server = Server::start(&files.config(&["--api-keys", keys.to_str().unwrap()])).await;
    let [alice, bob] = [0, 1].map(|at: usize| server.with_key(&made[at]));
    let body = json!({"model": "onegen", "input": "A secret.", "max_output_tokens": 6,
        "retrieval": {"forced": true}});
    let response = alice.done("POST", "/v1/responses", body).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let conversation = text(&response["conversation"]["id"]);
    let items = alice
        .get_json(&format!("/v1/conversations/{conversation}/items?order=asc"))
        .await;
    let ids = Ids {
        item: text(&items["first_id"]),
        response: text(&response["id"]),
        conversation,
    };
    let document = server.get_json("/openapi.json").await;
    let requests = ids.requests(&document);
    let never = Ids::never();
    for (request, unknown) in requests.iter().zip(never.requests(&document)) {
        let (status, told) = outcome(&bob, request).await;
        let (of_nothing, nothing) = outcome(&bob, &unknown).await;
        assert_eq!(ids.hidden(&told), never.hidden(&nothing), "{request:?}");
        assert_eq!(status, of_nothing, "{request:?}");
        assert!((400..500).contains(&status), "{request:?}: {told}");
        envelope(serde_json::from_str(&told).unwrap());
        assert!(!told.contains("secret"), "{told}");
    }
    assert!(requests.len() > 20, "only {} requests", requests.len());
    // The test could not fail if nothing was there. What is read comes before what is deleted.
    let (last, first): (Vec<_>, Vec<_>) =
        requests.iter().partition(|(method, ..)| method == "DELETE");
    let mut found = 0;
    for request in first.into_iter().chain(last) {
        let (status, _) = outcome(&alice, request).await;
        found += usize::from(status == 200);
    }
    assert!(found > 12, "{found} requests of the owner were answered");
}
