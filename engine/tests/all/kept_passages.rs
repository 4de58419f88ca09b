//! Passages whose keys and values are kept: they are spliced without a forward, and nothing else changes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use crate::common::*;
use onegen_engine::{
    Completion, Engine, EngineOptions, Model, Passage, PassageCacheOptions, PassageKvSource,
    RetrieveError, Retriever, SpanKind, StoreOptions,
};

const FAMILIES: [Family; 2] = [Family::Llama, Family::Qwen3];

/// Options with so many bytes for passages, in memory and in a directory.
fn options(bytes: usize, disk: Option<&Path>) -> EngineOptions {
    EngineOptions {
        passages: PassageCacheOptions {
            bytes,
            disk: disk.map(|dir| (dir.to_owned(), 1 << 30)),
        },
        ..EngineOptions::default()
    }
}

fn start(model: &Arc<Model>, options: EngineOptions) -> Engine {
    let shelf = Shelf::new(vec![peru()]);
    Engine::start(model.clone(), Some(shelf), options).unwrap()
}

fn options_without() -> EngineOptions {
    options(0, None)
}

/// Where the passages of a turn came from.
fn sources(done: &Completion) -> Vec<PassageKvSource> {
    let receipts = done.summary.retrievals.iter();
    receipts.map(|receipt| receipt.passage_kv).collect()
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_passage_that_was_read_before_is_spliced_without_a_forward() {
    for family in FAMILIES {
        let model = family.block_model();
        let without = start(&model, options_without());
        let wanted = run(&without, retrieving(&model, "a", 12, 2));
        assert_eq!(sources(&wanted), [PassageKvSource::Computed; 2]);

        let engine = start(&model, options(1 << 30, None));
        let first = run(&engine, retrieving(&model, "a", 12, 2));
        let second = run(&engine, retrieving(&model, "b", 12, 2));
        use PassageKvSource::{Computed, Memory};
        // The first turn reads the passage twice.
        assert_eq!(sources(&first), [Computed, Memory], "{family:?}");
        assert_eq!(sources(&second), [Memory, Memory], "{family:?}");
        for done in [&first, &second] {
            assert_eq!(done.text, wanted.text, "{family:?}");
            let spliced = done
                .summary
                .retrievals
                .iter()
                .zip(&wanted.summary.retrievals);
            for (receipt, wanted) in spliced {
                assert_eq!(receipt.splice_tokens, wanted.splice_tokens);
                let forwarded = match receipt.passage_kv {
                    Computed => receipt.splice_tokens,
                    _ => 1,
                };
                assert_eq!(receipt.splice_forwarded, forwarded);
                assert_eq!(receipt.query_tokens_reencoded, 0);
            }
        }
        // Two closing markers are all that is forwarded of two passages.
        assert_eq!(second.summary.forwarded[SpanKind::Passage], 2);
        assert_eq!(log_ids(&engine, "b"), log_ids(&without, "a"));
        let stats = engine.counters().stats();
        assert_eq!((stats.passage_hits, stats.passage_misses), (3, 1));
        assert!(stats.passage_bytes > 0);
        // What is written into the KV-cache is the same, too: the next turn reads it.
        let next = |engine: &Engine, name: &str| ask_on(engine, name, "And its coast?").text;
        assert_eq!(next(&engine, "b"), next(&without, "a"), "{family:?}");
    }
}

#[test]
fn a_passage_comes_back_from_the_disk_with_the_same_bits() {
    for family in FAMILIES {
        let model = family.block_model();
        let dir = tempfile::tempdir().unwrap();
        let engine = start(&model, options(1 << 30, Some(dir.path())));
        let wanted = run(&engine, retrieving(&model, "a", 12, 1));
        drop(engine);
        assert_eq!(files(dir.path()), 1);
        let engine = start(&model, options(1 << 30, Some(dir.path())));
        use PassageKvSource::{Disk, Memory};
        for (name, source) in [("b", Disk), ("c", Memory)] {
            let done = run(&engine, retrieving(&model, name, 12, 1));
            assert_eq!((sources(&done), &done.text), (vec![source], &wanted.text));
            assert_eq!(done.summary.forwarded[SpanKind::Passage], 1);
        }
    }
}

/// A shelf that keeps bytes with its passage.
struct KeepingShelf {
    shelf: Arc<Shelf>,
    kv: Option<Vec<u8>>,
}

impl Retriever for KeepingShelf {
    fn retrieve(&self, query: &[f32], k: usize) -> Result<Vec<Passage>, RetrieveError> {
        self.shelf.retrieve(query, k)
    }

    fn passage_kv(&self, _: &Passage) -> Option<Vec<u8>> {
        self.kv.clone()
    }
}

#[test]
fn what_is_kept_with_a_passage_is_spliced_from_its_first_retrieval_on_if_it_is_the_passages_own() {
    use PassageKvSource::{Computed, Disk, Memory};
    for family in FAMILIES {
        let model = family.block_model();
        let wanted = run(
            &start(&model, options_without()),
            retrieving(&model, "a", 12, 1),
        );
        let kept = |model: &Model, text: &str| {
            let texts = [("Peru", text)];
            let embedded = model
                .embed_texts_with_kv(&texts)
                .unwrap()
                .remove(0)
                .unwrap();
            let plain = model.embed_texts(&texts).unwrap().remove(0).unwrap();
            assert_eq!(embedded.embedding, plain, "{family:?}");
            embedded.kv.unwrap()
        };
        let own = kept(&model, &peru().text);
        let other_model = {
            let dir = family.write(8);
            set_block_attention(dir.path());
            kept(&load(dir.path()), &peru().text)
        };
        let shortened = own[..own.len() - 1].to_vec();
        for (kv, source) in [
            (Some(own), Disk),
            (None, Computed),
            (Some(kept(&model, "Another text.")), Computed),
            (Some(other_model), Computed),
            (Some(shortened), Computed),
            (Some(vec![1, 2, 3]), Computed),
        ] {
            let shelf = Shelf::new(vec![peru()]);
            let shelf = Arc::new(KeepingShelf { shelf, kv });
            let options = options(1 << 30, None);
            let engine = Engine::start(model.clone(), Some(shelf), options).unwrap();
            for (name, source) in [("a", source), ("b", Memory)] {
                let done = run(&engine, retrieving(&model, name, 12, 1));
                let found = (sources(&done), &done.text);
                assert_eq!(found, (vec![source], &wanted.text), "{family:?}");
            }
        }
    }
    let full = Family::Qwen3.model();
    let passage = peru();
    let texts = [(passage.title.as_str(), passage.text.as_str())];
    let embedded = full.embed_texts_with_kv(&texts).unwrap().remove(0).unwrap();
    assert_eq!(embedded.kv, None);
}

#[test]
fn a_log_that_is_forwarded_again_takes_its_passages_from_what_is_kept() {
    let model = Family::Qwen3.block_model();
    let kept = tempfile::tempdir().unwrap();
    let passages = tempfile::tempdir().unwrap();
    let options = |kv_bytes| EngineOptions {
        store: Some(StoreOptions {
            dir: kept.path().to_owned(),
            kv_bytes,
        }),
        ..options(1 << 30, Some(passages.path()))
    };
    // Only the log of the conversation is stored.
    let engine = start(&model, options(0));
    let first = run(&engine, retrieving(&model, "a", 12, 1));
    let wanted = {
        let beside = start(&model, options_without());
        run(&beside, retrieving(&model, "a", 12, 1));
        ask_on(&beside, "a", "And its coast?").text
    };
    // Read once more, so that the block is in memory after the start.
    drop(engine);
    let engine = start(&model, options(0));
    run(&engine, retrieving(&model, "b", 12, 1));
    let next = ask_on(&engine, "a", "And its coast?");
    assert_eq!(next.text, wanted);
    assert_eq!(next.summary.usage.cached_tokens, 0);
    // Of the first turn's passage the closing marker was forwarded, and nothing else.
    let splice = first.summary.retrievals[0].splice_tokens;
    let log = next.summary.log_len as u64;
    let all: u64 = next.summary.forwarded.iter().map(|(_, count)| count).sum();
    assert!(all <= log - (splice as u64 - 1), "{all} of {log}, {splice}");
    assert_eq!(next.summary.forwarded[SpanKind::Passage], 1);
}

#[test]
fn two_that_want_a_passage_at_once_compute_it_once() {
    let model = Family::Llama.block_model();
    let wanted = run(
        &start(&model, options_without()),
        retrieving(&model, "a", 12, 1),
    );
    let engine = start(&model, options(1 << 30, None));
    let turns: Vec<_> = (0..4)
        .map(|n| block_on(engine.submit(retrieving(&model, &n.to_string(), 12, 1))).unwrap())
        .collect();
    let done: Vec<_> = turns
        .into_iter()
        .map(|turn| block_on(turn.collect()).unwrap())
        .collect();
    for one in &done {
        assert_eq!(one.text, wanted.text);
    }
    let stats = engine.counters().stats();
    assert_eq!((stats.passage_hits, stats.passage_misses), (3, 1));
}

#[test]
fn a_passage_that_is_forgotten_is_computed_again_and_leaves_no_bytes() {
    let model = Family::Llama.block_model();
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&model, options(1 << 30, Some(dir.path())));
    run(&engine, retrieving(&model, "a", 12, 1));
    while engine.counters().stats().passage_disk_bytes == 0 {
        run(&engine, request(&model, "beside", "Lima?", 1));
        block_on(engine.delete(&"beside".into())).unwrap();
    }
    let held = peru().text_digest();
    // One that is still held stays, and so do those of other documents.
    engine.forget_passages(&[peru().id], |_, text| *text == held);
    engine.forget_passages(&["chile".to_owned()], |_, _| false);
    assert_eq!(files(dir.path()), 1);
    engine.forget_passages(&[peru().id], |_, _| false);
    assert_eq!(files(dir.path()), 0);
    let again = run(&engine, retrieving(&model, "b", 12, 1));
    assert_eq!(sources(&again), [PassageKvSource::Computed]);
    engine.forget_passages_unless(|_, _| false);
    let again = run(&engine, retrieving(&model, "c", 12, 1));
    assert_eq!(sources(&again), [PassageKvSource::Computed]);
}

#[test]
fn a_model_whose_passages_see_what_is_before_them_keeps_none() {
    let model = Family::Llama.model();
    let engine = start(&model, options(1 << 30, None));
    for name in ["a", "b"] {
        let done = run(&engine, retrieving(&model, name, 12, 1));
        assert_eq!(sources(&done), [PassageKvSource::Computed]);
        let receipt = &done.summary.retrievals[0];
        assert_eq!(receipt.splice_forwarded, receipt.splice_tokens);
    }
    let stats = engine.counters().stats();
    assert_eq!((stats.passage_hits, stats.passage_misses), (0, 0));
}
