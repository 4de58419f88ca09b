//! Conversations outlive the process, however it ends.
#![allow(clippy::unwrap_used)]

use crate::common::process::{End, Process, command};
use crate::common::{Files, content, conversation, question, with};
use serde_json::{Value, json};

/// The parts of an answer that a restart must not change: the text and the numbers of tokens.
fn essence(answer: &Value) -> Value {
    json!([
        content(answer),
        answer["usage"],
        answer["choices"][0]["finish_reason"]
    ])
}

#[tokio::test]
async fn a_conversation_goes_on_after_kill_and_after_sigterm() {
    let files = Files::new();
    let fields = json!({"max_tokens": 12, "logit_bias": files.bias(true)});
    let plain = files.without_retrieval(12);
    let first = with(question("What is the capital of Peru?"), fields);
    // With the conversation's id, and with what the client has seen.
    let by_id = |answer: &Value| {
        let next = with(question("And its currency?"), plain.clone());
        with(next, json!({"conversation": conversation(answer)}))
    };
    let by_messages = |answer: &Value| {
        let messages = json!([
            first["messages"][0],
            {"role": "assistant", "content": content(answer)},
            {"role": "user", "content": "And its currency?"},
        ]);
        with(
            json!({"model": "onegen", "messages": messages}),
            plain.clone(),
        )
    };
    let next_by: [&dyn Fn(&Value) -> Value; 2] = [&by_id, &by_messages];
    for how in [End::Killed, End::Terminated] {
        for next in next_by {
            let undisturbed = Process::start(&files, &files.dir.path().join("undisturbed"));
            let answer = undisturbed.client.complete(&first).await;
            let before = undisturbed.client.forwarded().await;
            let wanted = undisturbed.client.complete(&next(&answer)).await;
            let after = undisturbed.client.forwarded().await;
            undisturbed.end(End::Killed);

            let data_dir = files.dir.path().join("restarted");
            let process = Process::start(&files, &data_dir);
            let answer = process.client.complete(&first).await;
            process.end(how);
            let process = Process::start(&files, &data_dir);
            let got = process.client.complete(&next(&answer)).await;
            assert_eq!(essence(&got), essence(&wanted), "{how:?}");
            assert_eq!(conversation(&got), conversation(&answer), "{how:?}");
            // Forwarded since the start: what the other one forwarded for the second turn.
            let forwarded = process.client.forwarded().await;
            let of_turn: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
            assert_eq!(forwarded, of_turn[..], "{how:?}");
            assert_eq!(
                process
                    .client
                    .metric("onegen_kv_cache_restored_total")
                    .await,
                1.0
            );
            process.end(how);
        }
    }
}

#[tokio::test]
async fn two_servers_do_not_share_their_conversations() {
    let files = Files::new();
    let first = Process::start(&files, &files.data_dir());
    let second = command(&files, &files.data_dir()).output().unwrap();
    assert!(!second.status.success());
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("in use by another process"), "{told}");
    assert!(told.contains("--data-dir"), "{told}");
    first.end(End::Terminated);
}
