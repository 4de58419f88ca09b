//! A server under load for minutes: people who come and go, leave in the middle and read slowly, documents that
//! change, and a kill in between. It is a program of its own, since it measures memory and takes its time:
//! `ONEGEN_SOAK_SECONDS`, 120 if not set.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "all/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::almanac::{country, models};
use common::process::{End, Process};
use common::{Client, question, with};
use onegen_loadtest::client::Client as LoadClient;
use onegen_loadtest::drive::{DriveOptions, drive};
use onegen_loadtest::figures::{Figures, ServiceLevel};
use onegen_loadtest::plan::arrivals::Arrivals;
use onegen_loadtest::plan::dataset::Dataset;
use onegen_loadtest::plan::{Plan, Shape};
use reqwest::StatusCode;
use serde_json::{Map, json};
use tokio::sync::watch;

/// Conversations that begin a second.
const RATE: f64 = 8.0;
/// What memory may grow by between the middle and the end of a load, in MB.
const GROWTH_MB: usize = 24;

/// Limits that the load reaches, so that what is kept no longer grows.
fn start(dir: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.arg("--model").arg(models().join("almanac"));
    command.arg("--corpus").arg(dir.join("countries.jsonl"));
    command.arg("--data-dir").arg(dir.join("data"));
    command.args(["--port", "0", "--max-conversations", "40"]);
    command.args(["--kv-budget-mb", "32", "--kv-disk-budget-mb", "64"]);
    command.env("ONEGEN_LOG", "error");
    Process::spawn(command)
}

fn open_files(server: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", server.id()))
        .unwrap()
        .count()
}

/// The capital of Peru must be Lima for everybody who asks alone, at any time.
async fn ask_for_peru(client: &Client, stop: &AtomicBool, asked: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let fields = json!({"store": false});
        let answer = client
            .complete(&with(question("What is the capital of Peru?"), fields))
            .await;
        assert_eq!(
            answer["choices"][0]["message"]["content"], "Lima.",
            "{answer}"
        );
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Puts a document in and takes it out again; what was answered is so at once.
async fn change_documents(client: &Client, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let path = format!("/v1/documents/soak-{number}");
        let document =
            json!({"id": format!("soak-{number}"), "text": format!("Number {number} of many.")});
        client.done("PUT", "/v1/documents", document).await;
        assert_eq!(client.get(&path).await.status(), StatusCode::OK);
        client.done("DELETE", &path, serde_json::Value::Null).await;
        assert_eq!(client.get(&path).await.status(), StatusCode::NOT_FOUND);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Takes an answer one piece at a time, and sometimes leaves it.
async fn read_slowly(client: &Client, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = with(question("Tell me about Peru."), json!({"stream": true}));
        let mut response = client.send(&body).await;
        let pieces = if number % 3 == 0 { 2 } else { usize::MAX };
        for _ in 0..pieces {
            match response.chunk().await.unwrap() {
                Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                None => break,
            }
        }
    }
}

/// A load of so many seconds, with everybody else beside it. Returns the figures, and memory and open files in the
/// middle and at the end.
async fn load(server: &Process, seconds: u64, seed: u64) -> (Figures, [usize; 2], [usize; 2]) {
    let shape = Shape {
        arrivals: Arrivals::Poisson(RATE),
        duration: Duration::from_secs(seconds),
        turns: (1, 3),
        think: Duration::from_millis(500),
        systems: Vec::new(),
        max_tokens: 24,
        disconnects: 0.2,
        seed,
    };
    let plan = Plan::from_shape(&shape, &Dataset::built_in());
    let url = server.client.url.parse().unwrap();
    let timeout = Duration::from_secs(60);
    let client = LoadClient::new(url, "onegen".into(), None, Map::new(), timeout).unwrap();
    let options = DriveOptions {
        in_flight: 500,
        drain: Duration::from_secs(60),
    };
    let (_switch, never) = watch::channel(false);
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let others = async {
        tokio::join!(
            ask_for_peru(&server.client, &stop, &asked),
            change_documents(&server.client, &stop),
            read_slowly(&server.client, &stop),
            read_slowly(&server.client, &stop),
        )
    };
    let driven = async {
        let records = drive(&plan, client, options, never, |_| ()).await;
        stop.store(true, Ordering::Relaxed);
        records
    };
    let middle = async {
        tokio::time::sleep(Duration::from_secs(seconds) / 2).await;
        (server.memory_mb("VmRSS"), open_files(server))
    };
    let (records, _, (memory, files)) = tokio::join!(driven, others, middle);
    let level = ServiceLevel {
        ttft_ms: 1_000.0,
        itl_ms: 200.0,
    };
    let figures = Figures::new(&records, &level);
    assert!(asked.load(Ordering::Relaxed) > 5);
    server.client.idle().await;
    let ends = (server.memory_mb("VmRSS"), open_files(server));
    (figures, [memory, ends.0], [files, ends.1])
}

#[tokio::test]
async fn under_load_for_minutes_nothing_is_wrong_lost_or_growing() {
    let seconds = std::env::var("ONEGEN_SOAK_SECONDS").map_or(120, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let countries = ["Peru", "Chile", "Japan", "Kenya", "Norway"];
    let corpus: String = countries
        .map(|name| format!("{}\n", country(name)))
        .concat();
    fs::write(dir.path().join("countries.jsonl"), corpus).unwrap();
    let since = Instant::now();
    let mut server = start(dir.path());
    for half in 0..2 {
        let (figures, memory, files) = load(&server, seconds / 2, half).await;
        println!(
            "{} s: {} turns {:?}, first text {:?}, memory {memory:?} MB, open files {files:?}",
            since.elapsed().as_secs(),
            figures.requests,
            figures.outcomes,
            figures.ttft_ms,
        );
        assert_eq!(figures.failures(), 0, "{:?}", figures.reasons);
        assert!(memory[1] < memory[0] + GROWTH_MB, "{memory:?} MB");
        // Connections of clients that left may be closing still.
        assert!(files[1] <= files[0] + 16, "{files:?} open files");
        // What was acknowledged before a kill is there after it.
        let kept = json!({"id": format!("kept-{half}"), "text": "It stays."});
        server.client.done("PUT", "/v1/documents", kept).await;
        server.end(End::Killed);
        server = start(dir.path());
        let found = server
            .client
            .get(&format!("/v1/documents/kept-{half}"))
            .await;
        assert_eq!(found.status(), StatusCode::OK);
    }
}
