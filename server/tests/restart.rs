//! Conversations outlive the process, however it ends.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Client, Files, content, conversation, question, with};
use serde_json::{Value, json};

/// The program itself, as a user starts it.
struct Process {
    child: Child,
    client: Client,
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// kill -9
    Killed,
    /// SIGTERM
    Told,
}

fn command(files: &Files, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.arg("--model").arg(files.model());
    command.arg("--corpus").arg(files.corpus());
    command.arg("--data-dir").arg(data_dir);
    command.args(["--port", "0"]).env("ONEGEN_LOG", "error");
    command
}

impl Process {
    fn start(files: &Files, data_dir: &Path) -> Self {
        Self::of(command(files, data_dir))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let url = line.strip_prefix("serving on ")?.split(';').next()?;
            Some(url.to_owned())
        });
        let client = Client::new(url.unwrap_or_default());
        let process = Self { child, client };
        assert!(!process.client.url.is_empty(), "the server did not start");
        process
    }

    fn end(mut self, how: End) {
        match how {
            End::Killed => self.child.kill().unwrap(),
            End::Told => self.signal("-TERM"),
        }
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args([signal, &pid]).status();
        assert!(told.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, where the test got so far.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is the same whatever the process went through: the text, and the tokens that it took.
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
    let plain = json!({"max_tokens": 12, "logit_bias": files.bias(false)});
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
    for how in [End::Killed, End::Told] {
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
    first.end(End::Told);
}

#[tokio::test]
async fn keys_are_read_again_on_sighup_and_never_logged() {
    let files = Files::new();
    let keys = files.dir.path().join("keys.toml");
    let new_key = |name: &str| {
        let made = Command::new(env!("CARGO_BIN_EXE_onegen-server"))
            .args(["new-key", name, "--scopes", "chat,admin"])
            .output()
            .unwrap();
        let key = String::from_utf8(made.stderr).unwrap();
        let key = key.trim().rsplit(' ').next().unwrap().to_owned();
        (key, String::from_utf8(made.stdout).unwrap())
    };
    let (first, entry) = new_key("first");
    let (second, other_entry) = new_key("second");
    fs::write(&keys, entry).unwrap();
    let log = files.dir.path().join("log");
    let mut command = command(&files, &files.data_dir());
    command
        .arg("--api-keys")
        .arg(&keys)
        .args(["--log", "trace"]);
    command.stderr(fs::File::create(&log).unwrap());
    let process = Process::of(command);
    let status = async |key: &str| {
        process
            .client
            .with_key(key)
            .get("/v1/models")
            .await
            .status()
    };
    assert_eq!(status(&first).await, 200);
    assert_eq!(status(&second).await, 401);

    // A file that makes no sense changes nothing.
    fs::write(&keys, "no keys").unwrap();
    process.signal("-HUP");
    eventually(|| {
        fs::read_to_string(&log)
            .unwrap()
            .contains("stay as they were")
    })
    .await;
    assert_eq!(status(&first).await, 200);
    fs::write(&keys, other_entry).unwrap();
    process.signal("-HUP");
    let since = Instant::now();
    while status(&second).await != 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "not read again");
    }
    assert_eq!(status(&first).await, 401);
    process.end(End::Told);
    let log = fs::read_to_string(&log).unwrap();
    assert!(
        log.contains("key=\"second\"") || log.contains("key=second"),
        "{log}"
    );
    for key in [&first, &second] {
        assert!(!log.contains(key.as_str()), "a key stands in the log");
    }
}

async fn eventually(so: impl Fn() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < Duration::from_secs(20), "never so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
