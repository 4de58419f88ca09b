//! Whatever is scheduled beside a turn, however little memory there is, and wherever the engine is started
//! again, its tokens are those of one plain greedy run. Schedules are drawn at random; a failure names its seed, and
//! `ONEGEN_SEED=<seed> cargo test --release -p onegen-engine --test all schedules::` draws that one alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::*;
use onegen_engine::{
    Engine, EngineOptions, EngineStats, KvType, Model, Passage, PassageAttention, Request,
    RetrieveError, Retriever, StoreOptions, WeightType,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

const WORDS: &[&str] = &[
    "Lima",
    "Peru",
    "coast",
    "capital",
    "country",
    "What",
    "is",
    "the",
    "of",
    "a",
    "?",
    "na\u{ef}ve",
];

/// Finds a passage by the query embedding's bits, so that the same state finds the same passage.
struct BitwiseRetriever(Vec<Passage>);

impl Retriever for BitwiseRetriever {
    fn retrieve(&self, query: &[f32], _: usize) -> Result<Vec<Passage>, RetrieveError> {
        let bits = query
            .iter()
            .fold(0u32, |bits, x| bits.rotate_left(5) ^ x.to_bits());
        // Sometimes nothing is found.
        Ok(self
            .0
            .get(bits as usize % (self.0.len() + 1))
            .cloned()
            .into_iter()
            .collect())
    }
}

fn shelf(model: &Model) -> Arc<BitwiseRetriever> {
    // Passage blocks are also longer than a block of the KV-cache.
    let longest = if has_blocks(model) { 18 } else { 4 };
    let passages =
        [1, 2, 3, longest].map(|n| passage(&format!("P{n}"), &"Lima is on the coast. ".repeat(n)));
    Arc::new(BitwiseRetriever(passages.into()))
}

/// The questions of one conversation, turn by turn.
struct Script {
    name: String,
    turns: Vec<Request>,
}

fn script(model: &Model, name: String, rng: &mut StdRng) -> Script {
    let turns = (0..rng.random_range(1..=3)).map(|_| {
        let words: Vec<&str> = (0..rng.random_range(1..16))
            .map(|_| *WORDS.choose(rng).unwrap())
            .collect();
        let mut turn = request(model, &name, &words.join(" "), rng.random_range(2..16));
        let searches = rng.random_range(0..3);
        turn.retrieval.max_retrievals = Some(searches);
        if rng.random_bool(0.5) {
            turn.sampling
                .logit_bias
                .insert(model.tokens().query_id(), 100.0);
        }
        turn.sampling.min_tokens = rng.random_range(0..2);
        turn
    });
    let turns = turns.collect();
    Script { name, turns }
}

/// The logs that the conversations have after one turn at a time with room for everything.
fn plain(model: &Arc<Model>, scripts: &[Script]) -> Vec<Vec<u32>> {
    scripts
        .iter()
        .map(|script| {
            let engine = engine(model, Some(shelf(model)));
            for turn in &script.turns {
                run(&engine, turn.clone());
            }
            log_ids(&engine, &script.name)
        })
        .collect()
}

/// Reads `events` events and then drops the turn. Returns whether the turn was over by then.
fn leave_early(engine: &Engine, request: &Request, events: usize) -> bool {
    let len = || {
        let info = block_on(engine.conversation(&request.conversation));
        info.map_or(0, |info| info.log.len())
    };
    let before = len();
    let mut turn = block_on(engine.submit(request.clone())).unwrap();
    block_on(async {
        for _ in 0..events {
            turn.next().await;
        }
    });
    drop(turn);
    len() > before
}

fn check(model: &Arc<Model>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let scripts: Vec<_> = (0..rng.random_range(2..7))
        .map(|number| script(model, format!("c{number}"), &mut rng))
        .collect();
    let wanted = plain(model, &scripts);
    let block = model.new_cache().bytes_for(1);
    let dir = tempfile::tempdir().unwrap();
    let store = rng.random_bool(0.6).then(|| StoreOptions {
        dir: dir.path().to_owned(),
        // Room for all KV, or for that of a conversation or two.
        kv_bytes: (block * rng.random_range(1..20)) as u64,
    });
    let options = EngineOptions {
        max_step_tokens: rng.random_range(1..80),
        max_sequences: rng.random_range(1..5),
        // At least the longest conversation fits, and hardly more.
        kv_bytes: block * (rng.random_range(4..9) + usize::from(has_blocks(model))),
        retrieval_workers: rng.random_range(1..3),
        store,
        ..EngineOptions::default()
    };
    let start = || Engine::start(model.clone(), Some(shelf(model)), options.clone()).unwrap();
    let mut engine = start();
    // Rounds: every conversation's next turn, in any order, all at once; some are cancelled first.
    for round in 0..3 {
        let mut due: Vec<_> = scripts
            .iter()
            .filter(|script| script.turns.len() > round)
            .collect();
        due.shuffle(&mut rng);
        due.retain(|script| {
            let leaves = rng.random_bool(0.3);
            !(leaves && leave_early(&engine, &script.turns[round], rng.random_range(0..4)))
        });
        let submit = |turn: &Request| block_on(engine.submit(turn.clone())).unwrap();
        let turns: Vec<_> = due
            .iter()
            .map(|script| submit(&script.turns[round]))
            .collect();
        for turn in turns {
            block_on(turn.collect()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let stats = engine.counters().stats();
        assert!(stats.kv_bytes <= stats.kv_budget_bytes, "seed {seed}");
        assert_eq!(stats.store_failures, 0, "seed {seed}");
        if options.store.is_some() && rng.random_bool(0.4) {
            drop(engine);
            engine = start();
        }
    }
    let mut held = 0;
    for (script, wanted) in scripts.iter().zip(&wanted) {
        let info = block_on(engine.conversation(&script.name.as_str().into())).unwrap();
        assert_eq!(
            info.log.ids(),
            wanted,
            "seed {seed}, blocks {}: {}, {options:?}",
            has_blocks(model),
            script.name
        );
        held += info.kv_bytes as u64;
    }
    let idle = |stats: &EngineStats| stats.running + stats.waiting + stats.retrieving == 0;
    let stats = when(&engine, idle, seed);
    assert_eq!(
        stats.kv_bytes, held,
        "seed {seed}: memory is held by nobody"
    );
    for script in &scripts {
        block_on(engine.delete(&script.name.as_str().into())).unwrap();
    }
    when(
        &engine,
        |stats| stats.conversations == 0 && stats.kv_bytes == 0,
        seed,
    );
}

fn has_blocks(model: &Model) -> bool {
    model.tokens().onegen().passage_attention == PassageAttention::Block
}

/// Waits until the published statistics meet a condition; they are published after each step.
fn when(engine: &Engine, so: impl Fn(&EngineStats) -> bool, seed: u64) -> EngineStats {
    for _ in 0..2000 {
        let stats = engine.counters().stats();
        if so(&stats) {
            return stats;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("seed {seed}: {:?}", engine.counters().stats());
}

#[test]
fn every_schedule_gives_the_tokens_of_one_plain_run() {
    let wide = Family::Qwen2.write_sized(WIDE, 7);
    let in_bits = || {
        [WeightType::Q8_0, WeightType::Q4_1, WeightType::Q4_K]
            .map(|bits| load_in(wide.path(), bits))
    };
    let in_kv_types = || [KvType::F32, KvType::F16].map(|kv| load_kept_in(wide.path(), kv));
    let mut models: Vec<_> = FAMILIES.map(Family::model).into();
    models.extend(in_bits());
    models.extend(in_kv_types());
    let mut with_blocks: Vec<_> = FAMILIES.map(Family::block_model).into();
    set_block_attention(wide.path());
    with_blocks.extend(in_bits());
    with_blocks.extend(in_kv_types());
    let seeds: Vec<u64> = match std::env::var("ONEGEN_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let fresh = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64;
            // Seeds that once exceeded the KV budget, some fixed ones, and some new ones.
            let found = [1795284670643612296, 1795284696610135776];
            found
                .into_iter()
                .chain((0..40).map(|seed| if seed < 20 { seed } else { fresh + seed }))
                .collect()
        }
    };
    for seed in seeds {
        println!("seed {seed}");
        for models in [&models, &with_blocks] {
            check(&models[(seed % models.len() as u64) as usize], seed);
        }
    }
}
