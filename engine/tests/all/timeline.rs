//! The timeline of a turn: when each phase began and ended.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use crate::common::*;
use onegen_engine::{
    Engine, EngineError, EngineOptions, Event, PhaseTime, Request, StoreOptions, Timeline,
    TurnPhase,
};

/// Runs a turn to its end, whichever that is.
fn phases(engine: &Engine, request: Request) -> (Vec<PhaseTime>, Event) {
    let mut turn = block_on(engine.submit(request)).unwrap();
    let mut last = None;
    while let Some(event) = block_on(turn.next()) {
        last = Some(event);
    }
    (turn.timeline().phases(), last.unwrap())
}

fn names(phases: &[PhaseTime]) -> Vec<TurnPhase> {
    phases.iter().map(|phase| phase.phase).collect()
}

fn assert_tiled(phases: &[PhaseTime]) {
    for pair in phases.windows(2) {
        assert!(pair[0].began <= pair[1].began);
        assert_eq!(pair[0].ended, Some(pair[1].began), "{phases:?}");
    }
    assert!(phases.last().unwrap().ended.is_some(), "{phases:?}");
}

#[test]
fn a_turns_phases_follow_one_another_without_a_gap_and_agree_with_its_receipts() {
    use TurnPhase::*;
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let submitted = Instant::now();
        let (phases, end) = phases(&engine, retrieving(&model, "c", 12, 2));
        let heard = Instant::now();
        assert_tiled(&phases);
        let expected = [
            Queue, Prefill, Decode, Retrieval, Splice, Decode, Retrieval, Splice, Decode,
        ];
        assert_eq!(names(&phases), expected, "{name}");
        assert!(phases[0].began >= submitted && phases[8].ended.unwrap() <= heard);
        let Event::Finished(summary) = end else {
            panic!("{end:?}");
        };
        let seconds = |at: usize| (phases[at].ended.unwrap() - phases[at].began).as_secs_f64();
        assert_eq!(summary.queue_seconds, seconds(0), "{name}");
        for (receipt, at) in summary.retrievals.iter().zip([3, 6]) {
            assert_eq!(receipt.search_ms, seconds(at) * 1e3, "{name}");
            assert_eq!(receipt.splice_ms, seconds(at + 1) * 1e3, "{name}");
        }
    }
}

#[test]
fn a_search_that_finds_nothing_is_a_retrieval_without_a_splice() {
    use TurnPhase::*;
    let model = Family::Qwen3.model();
    let engine = engine(&model, Some(Shelf::new(Vec::new())));
    let (phases, _) = phases(&engine, retrieving(&model, "c", 6, 1));
    assert_tiled(&phases);
    let expected = [Queue, Prefill, Decode, Retrieval, Decode];
    assert_eq!(names(&phases), expected);
}

#[test]
fn a_cache_that_is_read_back_is_a_phase_of_its_own() {
    use TurnPhase::*;
    let model = Family::Qwen3.model();
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions {
        store: Some(StoreOptions {
            dir: dir.path().to_owned(),
            kv_bytes: 1 << 30,
        }),
        ..EngineOptions::default()
    };
    let start = || Engine::start(model.clone(), None, options.clone()).unwrap();
    run(&start(), request(&model, "c", "Lima", 4));
    let engine = start();
    let mut next = request(&model, "c", "Lima", 4);
    next.prompt = question(&model, "And its currency?");
    let (phases, _) = phases(&engine, next);
    assert_tiled(&phases);
    assert_eq!(names(&phases), [Queue, Restore, Prefill, Decode]);
}

#[test]
fn a_turn_that_is_cut_short_ends_in_the_phase_that_it_was_in() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, None);
    let mut turn = block_on(engine.submit(request(&model, "c", "Lima", 400))).unwrap();
    let first = block_on(turn.next());
    assert!(matches!(first, Some(Event::Text(_))), "{first:?}");
    let timeline: Timeline = turn.timeline().clone();
    assert_eq!(timeline.phases().last().unwrap().ended, None);
    let dropped = Instant::now();
    drop(turn);
    // Answered between two steps, after what was said before.
    block_on(engine.conversation(&"c".into()));
    let phases = timeline.phases();
    assert_tiled(&phases);
    let last = phases.last().unwrap();
    assert_eq!(last.phase, TurnPhase::Decode);
    assert!(last.ended.unwrap() >= dropped);

    let mut turn = block_on(engine.submit(request(&model, "d", "Lima", 400))).unwrap();
    drop(engine);
    let failed = std::iter::from_fn(|| block_on(turn.next())).last();
    assert!(matches!(failed, Some(Event::Failed(EngineError::Stopped))));
    assert_tiled(&turn.timeline().phases());
}
