//! Many clients at once do whatever clients do: start, go on, leave, fork, rewind, delete, while the
//! retriever fails now and then and memory is short. In the end every turn has ended once and all memory
//! is accounted for. `ONEGEN_SOAK_TURNS=100000` runs it for longer, `ONEGEN_SEED=<seed>` draws the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::*;
use onegen_engine::{
    ConversationError, Engine, EngineError, EngineOptions, Event, Model, Passage, RetrieveError,
    Retriever, StoreOptions, SubmitError,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CLIENTS: u64 = 8;
const CONVERSATIONS: usize = 24;

/// A retriever that fails, is slow or finds nothing, depending on the query.
struct UnreliableRetriever;

impl Retriever for UnreliableRetriever {
    fn retrieve(&self, query: &[f32], _: usize) -> Result<Vec<Passage>, RetrieveError> {
        match query[0].to_bits() % 8 {
            0 => Err(RetrieveError::new("out of order")),
            1 => Ok(Vec::new()),
            2 => {
                thread::sleep(Duration::from_millis(3));
                Ok(vec![peru()])
            }
            _ => Ok(vec![peru()]),
        }
    }
}

/// The outcomes of the turns.
#[derive(Default)]
struct Tally {
    finished: AtomicUsize,
    failed: AtomicUsize,
    left: AtomicUsize,
    refused: AtomicUsize,
}

fn name(rng: &mut StdRng) -> String {
    format!("c{}", rng.random_range(0..CONVERSATIONS))
}

/// One client's turns, one after another.
fn client(engine: &Engine, model: &Model, tally: &Tally, turns: usize, mut rng: StdRng) {
    for _ in 0..turns {
        let conversation = name(&mut rng);
        match rng.random_range(0..20) {
            0 => expected(block_on(engine.delete(&conversation.as_str().into()))),
            1 => {
                let copy = name(&mut rng);
                let (from, to) = (conversation.as_str().into(), copy.as_str().into());
                expected(block_on(engine.fork(&from, &to, None)));
            }
            2 => {
                let id = conversation.as_str().into();
                let len = rng.random_range(0..60);
                expected(block_on(engine.rewind(&id, len)));
            }
            _ => turn(engine, model, &conversation, tally, &mut rng),
        }
    }
}

/// Operations on a conversation that other clients also use may be refused.
fn expected(done: Result<(), ConversationError>) {
    assert!(!matches!(done, Err(ConversationError::Stopped)), "{done:?}");
}

fn turn(engine: &Engine, model: &Model, conversation: &str, tally: &Tally, rng: &mut StdRng) {
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
    let words = "What is the capital? ".repeat(rng.random_range(1..6));
    let mut request = request(model, conversation, &words, rng.random_range(1..12));
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(rng.random());
    if rng.random_bool(0.5) {
        let query = model.tokens().query_id();
        request.sampling.logit_bias.insert(query, 100.0);
    }
    let mut turn = match block_on(engine.submit(request)) {
        Ok(turn) => turn,
        Err(SubmitError::Busy(_) | SubmitError::Overloaded { .. }) => {
            count(&tally.refused);
            return;
        }
        Err(SubmitError::ContextLength { .. }) => {
            count(&tally.refused);
            expected(block_on(engine.delete(&conversation.into())));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let patience = match rng.random_range(0..4) {
        0 => rng.random_range(0..4),
        _ => usize::MAX,
    };
    for _ in 0..patience {
        match block_on(turn.next()) {
            Some(Event::Text(_) | Event::Retrieval(_)) => {}
            Some(Event::Finished(_)) => {
                count(&tally.finished);
                assert!(block_on(turn.next()).is_none(), "a turn ended twice");
                return;
            }
            Some(Event::Failed(EngineError::Retrieval(_))) => {
                count(&tally.failed);
                assert!(block_on(turn.next()).is_none(), "a turn ended twice");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    count(&tally.left);
}

/// The process's memory, in MiB; 0 where the system does not tell.
fn resident_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or_default() / 1024
}

#[test]
fn whatever_clients_do_all_memory_comes_back() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = variable("ONEGEN_SEED").unwrap_or(fresh.as_nanos() as u64);
    let turns = variable("ONEGEN_SOAK_TURNS").unwrap_or(1600) as usize;
    println!("seed {seed}");

    let model = Family::Qwen3.model();
    let dir = tempfile::tempdir().unwrap();
    let block = model.new_cache().bytes_for(1);
    let options = EngineOptions {
        max_step_tokens: 48,
        max_sequences: 5,
        max_waiting: 2,
        max_conversations: CONVERSATIONS / 2,
        // The longest conversation, and little more.
        kv_bytes: 7 * block,
        store: Some(StoreOptions {
            dir: dir.path().to_owned(),
            kv_bytes: 9 * block as u64,
        }),
        ..EngineOptions::default()
    };
    let engine =
        Engine::start(model.clone(), Some(Arc::new(UnreliableRetriever)), options).unwrap();
    let tally = Tally::default();
    let mut resident = Vec::new();
    for half in 0..2 {
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let rng = StdRng::seed_from_u64(seed.wrapping_add(half * CLIENTS + number));
                let (engine, model, tally) = (&engine, &model, &tally);
                scope.spawn(move || {
                    client(engine, model, tally, turns / 2 / CLIENTS as usize, rng);
                });
            }
        });
        check_idle(&engine, seed);
        resident.push(resident_mib());
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let counts = [&tally.finished, &tally.failed, &tally.left, &tally.refused].map(count);
    let stats = engine.counters().stats();
    println!("finished, failed, left, refused: {counts:?}; {stats:?}; {resident:?} MiB");
    // Every kind of event must have happened, otherwise the test has tested nothing.
    assert!(
        counts.iter().all(|count| *count > 0),
        "seed {seed}: {counts:?}"
    );
    assert!(
        stats.kv_dropped > 0 && stats.kv_restored > 0,
        "seed {seed}: {stats:?}"
    );
    assert_eq!(stats.store_failures, 0, "seed {seed}");
    // The first half has filled every buffer there is.
    assert!(
        resident[1] <= resident[0] + 32,
        "seed {seed}: {resident:?} MiB"
    );

    for number in 0..CONVERSATIONS {
        let _ = block_on(engine.delete(&format!("c{number}").as_str().into()));
    }
    check_idle(&engine, seed);
    assert_eq!(engine.counters().stats().kv_bytes, 0, "seed {seed}");
    drop(engine);
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"], "seed {seed}");
}

/// Waits until nothing is under way, and then compares the conversations' memory with the engine's
/// counts.
fn check_idle(engine: &Engine, seed: u64) {
    let started = Instant::now();
    loop {
        let held: u64 = (0..CONVERSATIONS)
            .filter_map(|n| block_on(engine.conversation(&format!("c{n}").as_str().into())))
            .map(|info| {
                assert!(info.cached_tokens <= info.log.len(), "seed {seed}");
                info.kv_bytes as u64
            })
            .sum();
        let stats = engine.counters().stats();
        assert!(
            stats.kv_bytes <= stats.kv_budget_bytes,
            "seed {seed}: {stats:?}"
        );
        let idle = stats.running + stats.waiting + stats.retrieving == 0;
        if idle && stats.kv_bytes == held {
            return;
        }
        let patient = started.elapsed() < Duration::from_secs(20);
        assert!(patient, "seed {seed}: {held} bytes are held; {stats:?}");
        thread::sleep(Duration::from_millis(2));
    }
}
