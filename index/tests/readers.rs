//! A reader that opens an index while others change, merge or replace it sees a complete index.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::vectors::clustered;
use common::{all, assert_whole, build, graph_options, options, passage};
use onegen_index::{BuildOptions, Change, Index, IndexBuilder, IndexError, Passage};
use rand::random_range;

const DIMENSION: usize = 8;
const READERS: usize = 3;

fn for_a_while() -> impl Fn() -> bool {
    let began = Instant::now();
    move || began.elapsed() < Duration::from_secs(3)
}

/// Four passages, whose texts every batch replaces and which are long enough for several pages.
fn batch(number: u64) -> Vec<Change> {
    let upsert = |part| Change::Upsert {
        passage: Passage {
            text: format!("{number} {}", "z".repeat(3000)),
            ..passage(part)
        },
        vectors: vec![vec![1.0 + part as f32; DIMENSION]],
    };
    (0..4).map(upsert).collect()
}

/// The batch that an index holds, whole.
fn held(index: &Index) -> u64 {
    let all = all(index).unwrap();
    let numbers: Vec<u64> = all
        .iter()
        .map(|(passage, _)| passage.text.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(numbers.len() == 4 || numbers.is_empty(), "{numbers:?}");
    assert!(numbers.iter().all(|n| *n == numbers[0]), "{numbers:?}");
    numbers.first().copied().unwrap_or(0)
}

fn empty(dir: &Path) {
    let options = BuildOptions {
        exact_scan_limit: 2,
        ..options(DIMENSION)
    };
    let builder = IndexBuilder::create(dir, options).unwrap();
    builder.finish().unwrap();
}

#[test]
fn who_opens_an_index_while_it_changes_sees_all_that_was_acknowledged_before() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    empty(&dir);
    let acknowledged = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let opened = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (dir, acknowledged, done, opened) = (&dir, &acknowledged, &done, &opened);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let index = Index::open(dir).unwrap();
                    let held = held(&index);
                    assert!(held >= before, "{held} of {before}");
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_whole(&dir);
            }
        });
        let goes_on = for_a_while();
        let mut number = 0;
        while goes_on() {
            // The index is sometimes reopened, which cuts torn logs and removes unused files.
            let index = Index::open_for_changes_with(&dir, 4).unwrap();
            for _ in 0..50 {
                number += 1;
                index.apply(batch(number)).unwrap();
                acknowledged.store(number, Ordering::SeqCst);
            }
        }
        done.store(true, Ordering::Relaxed);
        println!("{number} batches");
    });
    println!("opened {opened:?} times");
    assert!(opened.into_inner() > 20);
}

#[test]
fn who_opens_an_index_while_it_is_replaced_sees_the_old_one_or_the_new() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let kinds = [
        clustered(1, 40, DIMENSION, 3),
        clustered(2, 41, DIMENSION, 3),
    ];
    build(&dir, options(DIMENSION), &kinds[0]);
    let done = AtomicBool::new(false);
    let (opened, changed, locked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let index = Index::open(&dir).unwrap();
                    let all = all(&index).unwrap();
                    assert!((40..=42).contains(&all.len()), "{}", all.len());
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Only one writer can have the index open for changes, also while it is replaced.
        for writer in 0..2 {
            let (dir, done, changed, locked) = (&dir, &done, &changed, &locked);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    match Index::open_for_changes(dir) {
                        Ok(index) => {
                            let id = format!("of {writer}");
                            let upsert = Change::Upsert {
                                passage: Passage {
                                    id: id.clone(),
                                    ..passage(0)
                                },
                                vectors: vec![vec![1.0; DIMENSION]],
                            };
                            index.apply(vec![upsert]).unwrap();
                            let alone = Index::open_for_changes(dir).unwrap_err();
                            assert!(matches!(alone, IndexError::Locked { .. }), "{alone}");
                            // While it is open, nobody replaces it.
                            assert!(Index::open(dir).unwrap().get(&id).unwrap().is_some());
                            index.apply(vec![Change::Delete { id }]).unwrap();
                            changed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(IndexError::Locked { .. }) => {
                            _ = locked.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(error) => panic!("{error}"),
                    }
                    thread::sleep(Duration::from_millis(random_range(0..40)));
                }
            });
        }
        let goes_on = for_a_while();
        let (mut replaced, mut refused) = (0, 0);
        while goes_on() {
            let mut builder = IndexBuilder::create(&dir, graph_options(DIMENSION)).unwrap();
            for (number, vector) in kinds[(replaced + 1) % 2].iter().enumerate() {
                builder.add(&passage(number), &[vector]).unwrap();
            }
            match builder.finish() {
                Ok(_) => replaced += 1,
                Err(IndexError::Locked { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
        println!("replaced {replaced} times, refused {refused} times");
        assert!(replaced > 3);
    });
    println!("opened {opened:?}, for changes {changed:?}, locked out {locked:?} times");
    assert!(opened.into_inner() > 10 && changed.into_inner() > 3);
    assert_whole(&dir);
}
