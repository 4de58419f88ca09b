//! `onegen-server chat`, the program itself, against real servers.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::almanac::models;
use crate::common::{Files, Server};
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use onegen_server::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;

const PROGRAM: &str = env!("CARGO_BIN_EXE_onegen-server");

/// The shipped model over the passages of its almanac that a test asks for.
async fn almanac() -> (Server, TempDir) {
    let model = models().join("almanac");
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(model.join("almanac.jsonl")).unwrap();
    let wanted = [
        "country-peru",
        "country-chile",
        "country-pakistan",
        "mountain-k2",
    ];
    let is_wanted = |line: &&str| wanted.iter().any(|id| line.contains(&format!("\"{id}\"")));
    let lines: Vec<_> = whole.lines().filter(is_wanted).collect();
    assert_eq!(lines.len(), wanted.len());
    let corpus = dir.path().join("corpus.jsonl");
    fs::write(&corpus, lines.join("\n")).unwrap();
    let data_dir = dir.path().join("data");
    let [model, corpus, data_dir] =
        [&model, &corpus, &data_dir].map(|path: &PathBuf| path.to_str().unwrap());
    let arguments = [
        "onegen-server",
        "--model",
        model,
        "--corpus",
        corpus,
        "--data-dir",
        data_dir,
    ];
    let config = Config::try_parse_from(arguments).unwrap();
    (Server::start(&config).await, dir)
}

/// Runs the chat with this standard input; standard output and error are pipes, too.
async fn piped(url: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["chat", "--url", url]).args(arguments);
    let input = input.to_owned();
    let run = move || {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
        // A program that has already ended does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn piped_questions_are_one_conversation_and_plain_text() {
    let (server, _dir) = almanac().await;
    let input = "What is the capital of Peru?\nAnd its currency?\n\n/sources\n/new\n/sources\n/quit\nnever read\n";
    let output = piped(&server.url, &[], input).await;
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    assert!(!told.contains('\x1b'), "{told:?}");
    let lines: Vec<_> = told.lines().map(without_score).collect();
    let expected = [
        "  found Peru",
        "Lima. [1]",
        "  [1] Peru, country-peru",
        "  found Peru",
        "sol. [1]",
        "  [1] Peru, country-peru",
        "[1] Peru",
    ];
    assert_eq!(lines[..expected.len()], expected, "{told}");
    // A server without the route for documents gives no text, and says so.
    let passage = lines[expected.len()];
    assert!(
        passage.contains("Its currency is the sol.") || passage.contains("does not give"),
        "{told}"
    );
    let rest = ["a new conversation", "nothing was read for the last answer"];
    assert_eq!(lines[expected.len() + 1..], rest, "{told}");
}

/// Scores are the model's business.
fn without_score(line: &str) -> &str {
    match line.rsplit_once(' ') {
        Some((before, score)) if score.starts_with("0.") => before,
        _ => line,
    }
}

#[tokio::test]
async fn each_search_is_shown_where_it_happened() {
    let (server, _dir) = almanac().await;
    let question = ["What is the capital of the country of K2?"];
    let output = piped(&server.url, &question, "").await;
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}");
    let lines: Vec<_> = told.lines().map(without_score).collect();
    let place = |wanted: &str| lines.iter().position(|line| line.contains(wanted));
    let places = [
        "found K2",
        "Pakistan. [1]",
        "found Pakistan",
        "Islamabad. [2]",
        "[1] K2,",
        "[2] Pakistan,",
    ]
    .map(place);
    assert!(places.iter().all(Option::is_some), "{told}");
    assert!(places.is_sorted(), "{told}");
}

#[tokio::test]
async fn what_goes_wrong_is_told_and_counts_but_ends_nothing() {
    let (server, _dir) = almanac().await;
    let input = "/nonsense\nWhat is the capital of Peru?\nAnd its currency?\n";
    let output = piped(&server.url, &["--collection", "nowhere"], input).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let told: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].contains("there is no /nonsense; /help"), "{told:?}");
    for refused in &told[1..3] {
        assert!(
            refused.contains("there is no collection \"nowhere\""),
            "{told:?}"
        );
    }
    assert_eq!(told[3], "error: 2 questions got no answer");
}

#[tokio::test]
async fn where_no_server_answers_it_says_what_would_help() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let output = piped(&url, &["Hello!"], "").await;
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    for part in [
        &url,
        "no server answers",
        "refused",
        "start one with `onegen-server`",
        "--url",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let output = piped("elsewhere", &["Hello!"], "").await;
    assert!(
        text(&output.stderr).contains("is no address"),
        "{}",
        text(&output.stderr)
    );
}

/// A server that gives a fixed answer, for answers that a real server gives only in exceptional
/// cases.
async fn answering(status: u16, content_type: &'static str, body: &'static str) -> String {
    let ready = r#"{"status":"ok","model":"onegen","passages":1,"collections":[]}"#;
    let status = reqwest::StatusCode::from_u16(status).unwrap();
    let routes = Router::new()
        .route("/readyz", get(move || async move { ready }))
        .route(
            "/v1/chat/completions",
            post(move || async move { (status, [(CONTENT_TYPE, content_type)], body) }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

const TEXT: &str = "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"onegen\",\
    \"choices\":[{\"index\":0,\"delta\":{\"content\":\"Li\\u001b[2Jma\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_behind_what_came() {
    let error = "data: {\"error\":{\"message\":\"the server failed to answer\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n";
    let failing: &str = format!("{TEXT}{error}").leak();
    for (body, reason) in [
        (failing, "the server failed to answer"),
        (TEXT, "the connection was lost"),
    ] {
        let url = answering(200, "text/event-stream", body).await;
        let output = piped(&url, &["What?"], "").await;
        assert_eq!(output.status.code(), Some(1));
        // The sequence that would have cleared the terminal is no longer a command.
        assert_eq!(text(&output.stdout), "Li\u{fffd}[2Jma\n");
        assert!(
            text(&output.stderr).contains(reason),
            "{}",
            text(&output.stderr)
        );
    }
}

#[tokio::test]
async fn a_server_that_wants_a_key_is_told_of_and_what_is_no_onegen_server_too() {
    let refused = r#"{"error":{"message":"no API key","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
    let url = answering(401, "application/json", refused).await;
    let output = piped(&url, &["What?"], "").await;
    let told = text(&output.stderr);
    assert!(
        told.contains("wants an API key: no API key; give one with --key"),
        "{told}"
    );

    let strange = Router::new().route("/readyz", get(async || "fine, thank you"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, strange).await });
    let output = piped(&url, &["What?"], "").await;
    let told = text(&output.stderr);
    assert!(told.contains("not as a OneGen server does"), "{told}");
}

/// A link to a server that breaks each connection `bytes` bytes after a stream has begun on it, and
/// counts the broken connections.
async fn breaking(server: &str, bytes: usize) -> (String, Arc<AtomicUsize>) {
    let broken = Arc::new(AtomicUsize::new(0));
    let counted = broken.clone();
    let server = server.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = upstream.into_split();
                tokio::spawn(
                    async move { tokio::io::copy(&mut from_client, &mut to_server).await },
                );
                let mut passed: Vec<u8> = Vec::new();
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    passed.extend(&buffer[..read]);
                    let begun = passed.windows(12).position(|w| w == b"event-stream");
                    if begun.is_some_and(|begun| passed.len() > begun + bytes) {
                        counted.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    if to_client.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (url, broken)
}

#[tokio::test]
async fn an_answer_goes_on_where_its_connection_broke() {
    let (server, _dir) = almanac().await;
    let question = ["What is the capital of the country of K2?"];
    let whole = piped(&server.url, &question, "").await;
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    // The longest event is the receipt of one search.
    let (link, broken) = breaking(&server.url, 1300).await;
    let output = piped(&link, &question, "").await;
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), text(&whole.stdout));
    assert!(broken.load(Ordering::Relaxed) > 2);
    let asked = "onegen_request_success_total{finished_reason=\"stop\"}";
    assert_eq!(server.metric(asked).await, 2.0);
}

#[tokio::test]
async fn a_question_is_asked_again_and_a_conversation_forgotten() {
    let (server, dir) = almanac().await;
    let transcripts = || {
        let dirs = walk(&dir.path().join("data"));
        let files = dirs.iter().filter(|path| {
            path.parent()
                .is_some_and(|dir| dir.ends_with("transcripts"))
        });
        files.count()
    };
    let input = "/retry\nWhat is the capital of Peru?\nAnd its currency?\n/retry\nAnd which language do people speak there?\n";
    let output = piped(&server.url, &[], input).await;
    assert_eq!(
        text(&output.stderr),
        "error: nothing was asked yet\n",
        "{}",
        text(&output.stdout)
    );
    let told: Vec<_> = text(&output.stdout).lines().collect();
    let found = told.iter().filter(|line| line.contains("found "));
    assert_eq!(found.count(), 4, "{told:?}");
    // The first answer is not part of the conversation of the last question.
    assert!(
        told.iter().any(|line| line.starts_with("Spanish")),
        "{told:?}"
    );
    assert_eq!(transcripts(), 2);

    let input = "What is the capital of Chile?\n/retry\n/forget\n/sources\n";
    let output = piped(&server.url, &[], input).await;
    let told = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let end = "forgotten; a new conversation\nnothing was read for the last answer\n";
    assert!(told.ends_with(end), "{told}");
    assert_eq!(transcripts(), 2);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walk(&path))
        } else {
            all.push(path)
        }
    }
    all
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let data = |name: &str| {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        data.join(name).to_str().unwrap().to_owned()
    };
    let (certificate, key) = (data("localhost.crt"), data("localhost.key"));
    let files = Files::new();
    let server =
        Server::start(&files.config(&["--tls-cert", &certificate, "--tls-key", &key])).await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    let bounded = ["--cacert", &certificate, "Hello!"];
    let refused = piped(&url, &["Hello!"], "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("certificate"),
        "{}",
        text(&refused.stderr)
    );
    let answered = piped(&url, &bounded, "").await;
    assert!(answered.status.success(), "{}", text(&answered.stderr));
    for file in [&key, &data("nothing.crt")] {
        let refused = piped(&url, &["--cacert", file, "Hello!"], "").await;
        assert_eq!(refused.status.code(), Some(1));
        let told = text(&refused.stderr);
        assert!(told.contains("holds no certificates in PEM"), "{told}");
    }
}

/// The chat on a terminal, which `script` makes.
struct Terminal {
    chat: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Terminal {
    /// `None` where there is no `script`. `state` is the folder of the user's state, for the history.
    fn new(url: &str, arguments: &str, state: &Path) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            println!("skipped: no `script` to make a terminal with");
            return None;
        }
        // `exec`: a shell in between would take Control-C too, and some then end as if they were killed.
        let chat = format!("exec {PROGRAM} chat --url {url} {arguments}");
        let mut chat = Command::new("script")
            .args(["-qec", &chat, "/dev/null"])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env("XDG_STATE_HOME", state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            input: chat.stdin.take().unwrap(),
            output: chat.stdout.take().unwrap(),
            chat,
        })
    }

    fn types(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).unwrap();
    }

    /// What is shown up to the end of `wanted`.
    fn until(&mut self, wanted: &str) -> String {
        let mut shown = Vec::new();
        let mut byte = [0];
        while !shown.ends_with(wanted.as_bytes()) {
            let read = self.output.read(&mut byte).unwrap();
            let so_far = String::from_utf8_lossy(&shown);
            assert_eq!(read, 1, "{so_far:?} without {wanted:?}");
            shown.push(byte[0]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    }

    fn ends_well(mut self) {
        assert!(self.chat.wait().unwrap().success());
    }
}

#[tokio::test]
async fn on_a_terminal_there_are_colours_and_control_c_stops_the_answer() {
    // The random model hardly ever comes to an end.
    let files = Files::new();
    let server = files.serve().await;
    let state = tempfile::tempdir().unwrap();
    let Some(mut terminal) = Terminal::new(&server.url, "", state.path()) else {
        return;
    };
    let run = move || {
        let greeting = terminal.until("> ");
        assert!(greeting.contains("\x1b[2m"), "{greeting:?}");
        terminal.types("What is the capital of Peru?\r");
        terminal.until("Peru?");
        terminal.until("\r\n");
        let mut first = [0; 16];
        terminal.output.read_exact(&mut first).unwrap();
        terminal.types("\x03");
        terminal.until("stopped; the conversation goes on without this turn");
        terminal.until("> ");
        terminal.types("/quit\r");
        terminal.ends_well();
    };
    spawn_blocking(run).await.unwrap();
    let cancelled = server
        .metric("onegen_forwarded_tokens_total{kind=\"generated\"}")
        .await;
    assert!(
        cancelled < crate::common::CONTEXT as f64 / 2.0,
        "{cancelled} tokens were written"
    );
}

/// A server that gives each question the same answer, and the last messages of the questions.
async fn recording() -> (String, Arc<Mutex<Vec<String>>>) {
    let questions = Arc::new(Mutex::new(Vec::new()));
    let recorded = questions.clone();
    let complete = async move |Json(request): Json<Value>| {
        let question = request["messages"].as_array().unwrap().last().unwrap();
        let question = question["content"].as_str().unwrap();
        recorded.lock().unwrap().push(question.to_owned());
        (
            [(CONTENT_TYPE, "text/event-stream")],
            format!("{TEXT}data: [DONE]\n\n"),
        )
    };
    let ready = r#"{"status":"ok","model":"onegen","passages":1,"collections":[]}"#;
    let routes = Router::new()
        .route("/readyz", get(move || async move { ready }))
        .route("/v1/chat/completions", post(complete));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, questions)
}

#[tokio::test]
async fn on_a_terminal_lines_are_edited_emptied_and_called_up_again() {
    const ANSWER: &str = "Li\u{fffd}[2Jma";
    const BEGINNING: &str = "\x01";
    const UP: &str = "\x1b[A";
    const CONTROL_C: &str = "\x03";
    const CONTROL_D: &str = "\x04";
    let (url, questions) = recording().await;
    let state = tempfile::tempdir().unwrap();
    let path = state.path().to_owned();
    let run = move || {
        let mut terminal = Terminal::new(&url, "", &path)?;
        terminal.until("> ");
        terminal.types("Nothing");
        terminal.until("Nothing");
        terminal.types(CONTROL_C);
        terminal.until("\r\n");
        terminal.until("> ");
        terminal.types(&format!("at is it?{BEGINNING}Wh\r"));
        terminal.until(ANSWER);
        terminal.until("> ");
        terminal.types(&format!("{UP}\r"));
        terminal.until(ANSWER);
        terminal.until("> ");
        terminal.types(CONTROL_D);
        terminal.ends_well();

        let mut next = Terminal::new(&url, "", &path)?;
        next.until("> ");
        next.types(&format!("{UP}\r"));
        next.until(ANSWER);
        next.until("> ");
        next.types(CONTROL_D);
        next.ends_well();

        let mut without = Terminal::new(&url, "--no-history", &path)?;
        without.until("> ");
        without.types(&format!("{UP}And this?\r"));
        without.until(ANSWER);
        without.until("> ");
        without.types(CONTROL_D);
        without.ends_well();
        Some(())
    };
    if spawn_blocking(run).await.unwrap().is_none() {
        return;
    }
    let questions = questions.lock().unwrap();
    let what = "What is it?";
    assert_eq!(*questions, [what, what, what, "And this?"]);
    let history = fs::read_to_string(state.path().join("onegen/chat-history")).unwrap();
    assert!(
        history.contains(what) && !history.contains("And this?"),
        "{history}"
    );
}
