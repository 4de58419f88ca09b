//! What `onegen-loadtest` measures of a real server.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use onegen_loadtest::client::Client;
use onegen_loadtest::compare::{
    Grid, LinkingMethod, LinkingPoint, Method, Point, Servers, compare, compare_linking,
};
use onegen_loadtest::drive::{DriveOptions, drive};
use onegen_loadtest::figures::{Figures, ServiceLevel};
use onegen_loadtest::idle::IdleConversations;
use onegen_loadtest::plan::arrivals::Arrivals;
use onegen_loadtest::plan::dataset::Dataset;
use onegen_loadtest::plan::{Plan, Shape};
use serde_json::Map;
use tokio::sync::watch;

use crate::common::almanac::{Almanac, models};
use crate::common::{Files, Server, question};
use crate::linking::shipped;

fn client(url: &str) -> Client {
    let timeout = Duration::from_secs(60);
    Client::new(
        url.parse().unwrap(),
        "onegen".into(),
        None,
        Map::new(),
        timeout,
    )
    .unwrap()
}

/// The positions of each round by a method.
fn forwarded(points: &[Point], method: Method) -> Vec<u64> {
    let point = points.iter().find(|point| point.method == method).unwrap();
    point.rounds.0.iter().map(|round| round.forwarded).collect()
}

#[tokio::test]
async fn one_pass_forwards_a_question_once_and_a_kept_passage_not_at_all() {
    let files = Files::with_block_attention();
    let server = Server::start(&files.config(&[])).await;
    let others = Files::with_block_attention();
    // Whatever the default collection is called.
    let mut config = others.config(&[]);
    config.model.corpus[0].name = "things".into();
    let embedder = Server::start(&config).await;
    let servers = Servers {
        onegen: client(&server.url),
        embedder: Some(client(&embedder.url)),
        llama_cpp: None,
    };
    let grid = Grid {
        questions: vec![20],
        passages: vec![12],
        every: vec![1],
        answer: 4,
        rounds: 3,
        repetitions: 1,
    };
    let points = compare(&servers, &grid, |_| ()).await.unwrap();
    let [computed, kept, two, uncached, once, two_models] = [
        Method::OnePass,
        Method::OnePassKept,
        Method::TwoPasses,
        Method::TwoPassesUncached,
        Method::QueryCached,
        Method::TwoModels,
    ]
    .map(|method| forwarded(&points, method));
    for round in 0..3 {
        // Every word of a passage is a position at least, and so is every word of a question.
        assert!(computed[round] >= kept[round] + 12, "{computed:?} {kept:?}");
        assert!(two[round] >= computed[round] + 15, "{two:?} {computed:?}");
        // A question that is read once still has its passage read.
        assert!(two[round] >= once[round] + 8 && once[round] >= kept[round] + 12);
        // Two servers share the work of one; texts differ, and so do their lengths in the random model's tokens.
        let apart = two_models[round].abs_diff(two[round]);
        assert!(apart < 50, "{two_models:?} {two:?}");
    }
    // What is not cached is read again in every round.
    assert!(uncached[2] > 2 * two[2], "{uncached:?} {two:?}");
}

#[tokio::test]
async fn under_load_with_clients_that_leave_every_other_answer_comes_and_is_right() {
    let server = Almanac::start().await;
    let peru = || async {
        let answer = server
            .complete(&question("What is the capital of Peru?"))
            .await;
        answer["choices"][0]["message"]["content"].clone()
    };
    let before = peru().await;
    let shape = Shape {
        arrivals: Arrivals::Poisson(15.0),
        duration: Duration::from_secs(3),
        turns: (1, 3),
        think: Duration::from_millis(100),
        systems: Vec::new(),
        max_tokens: 24,
        disconnects: 0.3,
        seed: 1,
    };
    let plan = Plan::from_shape(&shape, &Dataset::built_in());
    let options = DriveOptions {
        in_flight: 1000,
        drain: Duration::from_secs(60),
    };
    let (_switch, stop) = watch::channel(false);
    let records = drive(&plan, client(&server.url), options, stop, |_| ()).await;
    let level = ServiceLevel {
        ttft_ms: 60_000.0,
        itl_ms: 60_000.0,
    };
    let figures = Figures::new(&records, &level);
    assert_eq!(figures.failures(), 0, "{:?}", figures.reasons);
    assert!(figures.outcomes["disconnected"] > 0 && figures.outcomes["ok"] > 20);
    assert!(figures.search_ms.is_some() && figures.cached_share > 0.0);
    server.idle().await;
    assert_eq!(peru().await, before);
}

#[tokio::test]
async fn a_mention_that_searches_by_itself_is_not_embedded_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = shipped(dir.path()).await;
    let texts = Dataset::read(&models().join("linker/examples.jsonl")).unwrap();
    let client = client(&server.url);
    let points = compare_linking(&client, &texts, &[1, 4], 2, |_| ());
    let points = points.await.unwrap();
    let of = |mentions, method| {
        let is_it = |point: &&LinkingPoint| (point.mentions, point.method) == (mentions, method);
        let point = points.iter().find(is_it).unwrap();
        point.rounds.median(|round| round.forwarded as f64)
    };
    for mentions in [1, 4] {
        let [one, two] =
            [LinkingMethod::OnePass, LinkingMethod::TwoPasses].map(|method| of(mentions, method));
        // A mention is embedded with its name and its text, of four words and their marks at least.
        assert!(two >= one + 5.0 * mentions as f64, "{one} {two}");
    }
    let impossible = compare_linking(&client, &texts, &[100_000], 1, |_| ());
    let error = impossible.await.unwrap_err();
    assert!(error.contains("100000 mentions"), "{error}");
}

#[tokio::test]
async fn conversations_that_were_idle_go_on_with_what_was_read() {
    let server = Almanac::start().await;
    let (client, questions) = (client(&server.url), Dataset::built_in());
    let idle = IdleConversations::begin(&client, &questions, 12, 16).await;
    let figures = idle.resume(&client, &questions, 5, 16).await;
    assert_eq!((figures.begun, figures.failed), (12, 0));
    assert_eq!((figures.resumed, figures.cached), (5, 5), "{figures:?}");
    assert_eq!(figures.not_resumed, 0);
    assert_eq!(figures.ttft_ms.unwrap().count, 5);
}
