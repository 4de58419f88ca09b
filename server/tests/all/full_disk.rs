//! A full disk: what cannot be kept is told and changes nothing, and the server goes on as soon as there is room.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::common::process::{Process, command};
use crate::common::{Files, by_id, conversation, question, with};
use reqwest::StatusCode;
use serde_json::{Value, json};

const BYTES: u64 = 3 << 20;

/// A server whose data directory is a small disk, and that directory as this process sees it. `None` where no disk
/// can be mounted.
fn on_a_small_disk(files: &Files) -> Option<(Process, PathBuf)> {
    let data = files.dir.path().join("small");
    fs::create_dir(&data).unwrap();
    let server = command(files, &data);
    let mut small = Command::new("unshare");
    small.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
    let script = "mount -t tmpfs -o \"size=$1\" tmpfs \"$2\" || exit 77; shift 2; exec \"$@\"";
    small.args([script, "sh", &BYTES.to_string()]).arg(&data);
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
    probe.arg("mount -t tmpfs tmpfs \"$0\"").arg(&data);
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("skipped: no small disk can be mounted here");
        return None;
    }
    small.arg(server.get_program()).args(server.get_args());
    small.env("ONEGEN_LOG", "off");
    let process = Process::spawn(small);
    let root = PathBuf::from(format!("/proc/{}/root", process.id()));
    let seen = root.join(data.strip_prefix("/").unwrap());
    Some((process, seen))
}

fn fill(disk: &std::path::Path) {
    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
    while ballast.write_all(&[1]).is_ok() {}
}

#[tokio::test]
async fn what_a_full_disk_does_not_take_is_refused_and_works_again_later() {
    let files = Files::new();
    let Some((process, disk)) = on_a_small_disk(&files) else {
        return;
    };
    let server = &process.client;
    let short = files.without_retrieval(4);
    let ask = with(question("What is the capital of Peru?"), short.clone());
    let first = server.complete(&ask).await;
    let id = conversation(&first);
    let next = with(by_id(id, "And its currency?"), short);
    let document = json!({"id": "a", "title": "A", "text": "A text of its own. ".repeat(2000)});
    let path = format!("/v1/conversations/{id}");
    let about = json!({"metadata": {"topic": "x".repeat(400)}});
    let items = json!({"items": [{"role": "user", "content": "Wait. ".repeat(2000)}]});
    let items_path = format!("{path}/items");
    let before = server
        .done("GET", &format!("{path}/items"), Value::Null)
        .await;

    fill(&disk);
    for (method, path, body) in [
        ("POST", "/v1/chat/completions", &ask),
        ("POST", "/v1/chat/completions", &next),
        ("POST", "/v1/conversations", &about),
        ("POST", &items_path, &items),
        ("PUT", "/v1/documents", &document),
    ] {
        let (status, code, ..) = server.refused_at(method, path, body.clone()).await;
        assert_eq!(
            (status, code.as_str()),
            (507, "not_stored"),
            "{method} {path}"
        );
    }
    let streamed = server
        .send(&with(next.clone(), json!({"stream": true})))
        .await;
    let streamed = streamed.text().await.unwrap();
    assert!(streamed.contains("\"code\":\"not_stored\""), "{streamed}");
    // What needs no room goes on.
    let unstored = with(ask.clone(), json!({"store": false}));
    server.complete(&unstored).await;
    assert_eq!(server.done("GET", &items_path, Value::Null).await, before);
    let (status, ready) = server.ask("GET", "/readyz", Value::Null).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready["status"], "unwritable");

    fs::remove_file(disk.join("ballast")).unwrap();
    let (status, _) = server.ask("GET", "/readyz", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    server.complete(&ask).await;
    server.complete(&next).await;
    server.done("PUT", "/v1/documents", document).await;
    server.done("POST", &items_path, items).await;
}
