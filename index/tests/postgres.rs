//! Collections in a real PostgreSQL with pgvector answer as directories do, also while it is away and comes back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/postgres.rs"]
mod postgres;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::vectors::clustered;
use common::{fingerprints, options, passage};
use onegen_index::{
    BuildOptions, Change, DocumentRules, Filter, Fingerprints, Hit, Index, IndexBuilder,
    IndexError, Part, Passage, RemoteCollection, RemoteOptions, SearchOptions, VectorsPer, push,
};
use postgres::Postgres;
use serde_json::json;
use tempfile::TempDir;

const DIMENSION: usize = 32;

/// A passage with metadata of every kind, of which some have none and some belong to longer documents.
fn described(number: usize) -> Passage {
    let kind = ["town", "river", "hill"][number % 3];
    let metadata = json!({
        "year": 1800 + number % 200,
        "kind": kind,
        "big": 9_007_199_254_740_993u64 + (number % 5) as u64,
        "wet": number % 3 == 1,
        "tags": ["a", number % 7, null, [format!("t{}", number % 11)]],
        "place": {"country": format!("c{}", number % 4), "a.b": number % 2},
        "$document": "taken",
    });
    let part = (number % 10 < 3).then(|| Part {
        document: format!("long-{}", number / 10),
        start: number % 10 * 100,
        end: number % 10 * 100 + 90,
    });
    Passage {
        metadata: (!number.is_multiple_of(13)).then(|| metadata.as_object().unwrap().clone()),
        part,
        ..passage(number)
    }
}

struct Built {
    _home: TempDir,
    index: Index,
    vectors: Vec<Vec<f32>>,
}

fn build(passages: usize, options: BuildOptions) -> Built {
    let home = tempfile::tempdir().unwrap();
    let vectors = clustered(7, passages, options.dimension, 20);
    let dir = home.path().join("index");
    let mut builder = IndexBuilder::create(&dir, options).unwrap();
    for (number, vector) in vectors.iter().enumerate() {
        builder
            .add(&described(number), std::slice::from_ref(vector))
            .unwrap();
    }
    builder.finish().unwrap();
    Built {
        index: Index::open_for_changes(&dir).unwrap(),
        _home: home,
        vectors,
    }
}

fn pushed(postgres: &Postgres, table: &str, index: &Index) -> RemoteCollection {
    let address = postgres.address(table).parse().unwrap();
    push(index, &address, RemoteOptions::default(), |_| ()).unwrap()
}

fn exact(k: usize, filter: Option<Filter>) -> SearchOptions {
    SearchOptions {
        exact: true,
        filter,
        ..SearchOptions::new(k)
    }
}

/// The same passages in the same order, with the same cosines as far as f32 is sure of them.
fn assert_same(here: &[Hit], there: &[Hit]) {
    let ids =
        |hits: &[Hit]| -> Vec<String> { hits.iter().map(|hit| hit.passage.id.clone()).collect() };
    assert_eq!(ids(here), ids(there));
    for (here, there) in here.iter().zip(there) {
        assert!(
            (here.score - there.score).abs() < 1e-5,
            "{} {}",
            here.score,
            there.score
        );
        assert_eq!((&here.passage, here.part), (&there.passage, there.part));
    }
}

#[test]
fn a_pushed_index_answers_as_its_directory_does() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(3_000, options(DIMENSION));
    let remote = pushed(&postgres, "same", &index);
    assert_eq!(remote.passages(), 3_000);
    assert_eq!(remote.document_rules(), index.document_rules());
    let filters = [
        json!({"type": "eq", "key": "year", "value": 1821}),
        json!({"type": "ne", "key": "year", "value": 1821}),
        json!({"type": "gt", "key": "year", "value": 1990}),
        json!({"type": "gte", "key": "year", "value": 1990.5}),
        json!({"type": "lt", "key": "year", "value": 1803}),
        json!({"type": "lte", "key": "kind", "value": "hill"}),
        json!({"type": "gt", "key": "big", "value": 9_007_199_254_740_994u64}),
        json!({"type": "eq", "key": "big", "value": 9_007_199_254_740_993u64}),
        json!({"type": "in", "key": "tags", "value": ["t3", 5]}),
        json!({"type": "nin", "key": "tags", "value": ["t3", 5, "a"]}),
        json!({"type": "in", "key": "tags", "value": []}),
        json!({"type": "nin", "key": "tags", "value": []}),
        json!({"type": "eq", "key": "place.country", "value": "c2"}),
        json!({"type": "eq", "key": "place.a.b", "value": 1}),
        json!({"type": "eq", "key": "wet", "value": true}),
        json!({"type": "eq", "key": "missing", "value": "x"}),
        json!({"type": "and", "filters": []}),
        json!({"type": "or", "filters": []}),
        json!({"type": "not", "filter": {"type": "or", "filters": [
            {"type": "eq", "key": "kind", "value": "town"},
            {"type": "and", "filters": [
                {"type": "gt", "key": "year", "value": 1850},
                {"type": "eq", "key": "wet", "value": true},
            ]},
        ]}}),
    ];
    let filters = filters
        .iter()
        .map(|filter| Some(Filter::from_json(filter).unwrap()));
    for filter in filters.chain([None]) {
        for query in vectors.iter().step_by(500) {
            let options = exact(10, filter.clone());
            let here = index.search(query, &options).unwrap();
            assert_same(&here, &remote.search(query, &options).unwrap());
            // Through the graph a filter leaves as many, too.
            let through_graph = SearchOptions {
                exact: false,
                ..options
            };
            let there = remote.search(query, &through_graph).unwrap();
            assert_eq!(there.len(), here.len(), "{filter:?}");
        }
    }
    let near = SearchOptions {
        min_score: Some(0.95),
        ..exact(50, None)
    };
    let query = &vectors[17];
    assert_same(
        &index.search(query, &near).unwrap(),
        &remote.search(query, &near).unwrap(),
    );

    for id in ["id-0", "id-13", "id-2999", "none", "long-3", "a\0b"] {
        assert_eq!(remote.get(id).unwrap(), index.get(id).unwrap(), "{id}");
        assert_eq!(
            remote.document(id).unwrap(),
            index.document(id).unwrap(),
            "{id}"
        );
    }
    let mut here = Vec::new();
    let read = |passage: &Passage, vectors: &[&[f32]]| {
        here.push((passage.clone(), vectors.concat()));
        Ok::<_, IndexError>(())
    };
    index.for_each(read).unwrap();
    let mut there = Vec::new();
    let read = |passage: &Passage, vectors: &[&[f32]]| {
        there.push((passage.clone(), vectors.concat()));
        Ok::<_, IndexError>(())
    };
    remote.for_each(read).unwrap();
    assert_eq!(here, there);

    let verified = remote.verify(50).unwrap();
    assert_eq!(verified.counts, (3_000, 3_000));
    assert_eq!(verified.findings, [""; 0]);
    assert!(verified.recall_at_10 >= 0.95, "{}", verified.recall_at_10);
}

#[test]
fn changes_are_those_of_a_directory_and_are_seen_at_once() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(200, options(DIMENSION));
    let remote = pushed(&postgres, "changes", &index);
    let upsert = |number: usize, vector: usize| Change::Upsert {
        passage: Passage {
            text: format!("changed {number}"),
            ..described(number)
        },
        vectors: vec![vectors[vector].clone()],
    };
    let deleted = |id: &str| Change::Delete { id: id.into() };
    let document = |id: &str| Change::DeleteDocument { id: id.into() };
    let batches = [
        vec![
            upsert(5, 6),
            upsert(500, 7),
            deleted("id-9"),
            deleted("id-9"),
            deleted("none"),
        ],
        vec![document("long-2"), upsert(20, 20), upsert(21, 21)],
        vec![
            document("id-17"),
            document("none"),
            upsert(17, 3),
            upsert(17, 4),
        ],
        vec![],
    ];
    for batch in batches {
        assert_eq!(
            remote.apply(batch.clone()).unwrap(),
            index.apply(batch).unwrap()
        );
        assert_eq!(remote.passages(), index.passages());
        for query in vectors.iter().step_by(20) {
            let options = exact(10, None);
            assert_same(
                &index.search(query, &options).unwrap(),
                &remote.search(query, &options).unwrap(),
            );
        }
    }
    let nul = Change::Upsert {
        passage: Passage {
            text: "a\0b".into(),
            ..described(1)
        },
        vectors: vec![vectors[1].clone()],
    };
    let refused = remote.apply(vec![upsert(2, 2), nul]).unwrap_err();
    assert!(
        matches!(refused, IndexError::NotStorable { .. }),
        "{refused}"
    );
    let none = Change::Upsert {
        passage: described(1),
        vectors: vec![vec![0.0; DIMENSION]],
    };
    assert!(matches!(
        remote.apply(vec![none]),
        Err(IndexError::NoDirection { .. })
    ));
    assert_eq!(remote.get("id-2").unwrap(), index.get("id-2").unwrap());
}

#[test]
fn of_passages_with_several_vectors_each_is_found_once_by_its_best() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(3, 1_200, DIMENSION, 100);
    let several = BuildOptions {
        documents: Some(DocumentRules {
            vectors: VectorsPer::Sentence,
            ..DocumentRules::default()
        }),
        ..options(DIMENSION)
    };
    let mut builder = IndexBuilder::create(&dir, several).unwrap();
    // A passage has all that is near one point, so the nearest vectors are of few passages.
    for number in 0..100 {
        let near: Vec<_> = vectors.iter().skip(number).step_by(100).collect();
        builder.add(&described(number), &near).unwrap();
    }
    builder.finish().unwrap();
    let index = Index::open(&dir).unwrap();
    let remote = pushed(&postgres, "several", &index);
    for query in vectors.iter().step_by(100) {
        for k in [1, 3, 40] {
            let options = exact(k, None);
            assert_same(
                &index.search(query, &options).unwrap(),
                &remote.search(query, &options).unwrap(),
            );
        }
    }
}

#[test]
fn wide_vectors_are_stored_in_half_and_wider_ones_refused() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(60, options(2_100));
    let remote = pushed(&postgres, "wide", &index);
    let upsert = Change::Upsert {
        passage: described(60),
        vectors: vec![vectors[3].clone()],
    };
    remote.apply(vec![upsert]).unwrap();
    let hits = remote.search(&vectors[3], &SearchOptions::new(2)).unwrap();
    let ids: Vec<_> = hits.iter().map(|hit| hit.passage.id.as_str()).collect();
    assert_eq!(ids, ["id-3", "id-60"]);
    assert!((hits[0].score - 1.0).abs() < 1e-3);
    assert!(remote.verify(10).unwrap().findings.is_empty());

    let Built { index, .. } = build(3, options(4_096));
    let address = postgres.address("wider").parse().unwrap();
    let refused = push(&index, &address, RemoteOptions::default(), |_| ()).unwrap_err();
    assert!(
        refused.to_string().contains("indexes up to 4000"),
        "{refused}"
    );
}

#[test]
fn what_is_no_collection_of_the_model_is_refused_by_name() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, .. } = build(20, options(DIMENSION));
    let remote = pushed(&postgres, "ours", &index);
    let other = Fingerprints {
        model: "0ther".into(),
        ..fingerprints()
    };
    assert!(remote.check_fingerprints(&fingerprints()).is_ok());
    let refused = remote.check_fingerprints(&other).unwrap_err().to_string();
    assert!(refused.contains("model differ"), "{refused}");

    let open = |table: &str| {
        RemoteCollection::open(
            &postgres.address(table).parse().unwrap(),
            RemoteOptions::default(),
        )
    };
    let said = |result: Result<RemoteCollection, IndexError>| result.unwrap_err().to_string();
    assert!(said(open("none")).contains("it holds no collection"));
    let address = postgres.address("ours").parse().unwrap();
    let again = push(&index, &address, RemoteOptions::default(), |_| ());
    assert!(said(again).contains("it holds a collection already"));
    let version =
        "UPDATE onegen_collections SET description = '{\"version\": 7}' WHERE name = 'ours'";
    assert!(postgres.sql(version));
    assert!(said(open("ours")).contains("its version is 7"));
    let no_database = postgres.address("ours").replace("/postgres?", "/absent?");
    let error = said(RemoteCollection::open(
        &no_database.parse().unwrap(),
        RemoteOptions::default(),
    ));
    assert!(
        error.contains("absent") && !error.contains("panicked"),
        "{error}"
    );
}

#[test]
fn a_push_that_was_interrupted_goes_on() {
    let Some(mut postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(4_500, options(DIMENSION));
    let address = postgres.address("interrupted").parse().unwrap();
    let quick = RemoteOptions {
        deadline: Duration::from_millis(500),
        ..RemoteOptions::default()
    };
    let mut batches = 0;
    let broken = push(&index, &address, quick, |_| {
        batches += 1;
        if batches == 2 {
            postgres.kill();
        }
    });
    assert!(
        matches!(broken, Err(IndexError::Unreachable { .. })),
        "{broken:?}"
    );
    postgres.run();
    let partly = RemoteCollection::open(&address, RemoteOptions::default()).unwrap_err();
    assert!(
        partly
            .to_string()
            .contains("not all of its passages are there"),
        "{partly}"
    );
    let other = build(10, options(DIMENSION));
    let refused = push(&other.index, &address, RemoteOptions::default(), |_| ()).unwrap_err();
    assert!(
        refused.to_string().contains("a part of another index"),
        "{refused}"
    );
    let remote = push(&index, &address, RemoteOptions::default(), |_| ()).unwrap();
    assert_eq!(remote.passages(), 4_500);
    for query in vectors.iter().step_by(900) {
        let options = exact(10, None);
        assert_same(
            &index.search(query, &options).unwrap(),
            &remote.search(query, &options).unwrap(),
        );
    }
}

#[test]
fn nobody_waits_for_a_database_that_is_away_and_it_is_used_when_it_is_back() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let Built { index, vectors, .. } = build(50, options(DIMENSION));
    pushed(&postgres, "away", &index);
    let address = postgres.address("away").parse().unwrap();
    let options = RemoteOptions {
        deadline: Duration::from_millis(300),
        ..RemoteOptions::default()
    };
    let remote = RemoteCollection::open(&address, options).unwrap();
    let search = || {
        let began = Instant::now();
        let found = remote.search(&vectors[0], &SearchOptions::new(3));
        (found.map(|hits| hits.len()), began.elapsed())
    };
    assert_eq!(search().0.unwrap(), 3);
    postgres.freeze();
    for _ in 0..5 {
        let (found, took) = search();
        assert!(
            matches!(found, Err(IndexError::Unreachable { .. })),
            "{found:?}"
        );
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let (found, took) = search();
    assert!(found.unwrap_err().to_string().contains("is asked again in"));
    assert!(took < Duration::from_millis(100), "{took:?}");
    let stats = remote.remote_stats();
    assert!(
        stats.is_open && stats.failed == 5 && stats.refused == 1,
        "{stats:?}"
    );
    postgres.thaw();
    let end = Instant::now() + Duration::from_secs(20);
    while search().0.is_err() {
        assert!(Instant::now() < end, "it is not asked again");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!remote.remote_stats().is_open);
}

/// Kills PostgreSQL again and again, `ONEGEN_RESTARTS` times or 8, while documents are put in and searched for.
#[test]
fn no_acknowledged_document_is_lost_when_the_database_is_killed() {
    let Some(mut postgres) = Postgres::start() else {
        return;
    };
    let restarts = std::env::var("ONEGEN_RESTARTS").map_or(8, |n| n.parse().unwrap());
    let Built { index, vectors, .. } = build(100, options(DIMENSION));
    let remote = pushed(&postgres, "killed", &index);
    let stop = AtomicBool::new(false);
    let acknowledged = AtomicUsize::new(0);
    let (remote, stop, acknowledged) = (&remote, &stop, &acknowledged);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut number = 1_000;
            while !stop.load(Ordering::Relaxed) {
                let change = Change::Upsert {
                    passage: passage(number),
                    vectors: vec![vectors[number % 100].clone()],
                };
                // What was not acknowledged may be there or not, and is put in again.
                if remote.apply(vec![change]).is_ok() {
                    number += 1;
                    acknowledged.store(number, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..restarts {
            let before = acknowledged.load(Ordering::Relaxed);
            while acknowledged.load(Ordering::Relaxed) < before + 3 {
                thread::sleep(Duration::from_millis(5));
            }
            postgres.kill();
            postgres.run();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    println!("{restarts} restarts, {} documents", acknowledged - 1_000);
    for number in 1_000..acknowledged {
        let found = remote.get(&format!("id-{number}")).unwrap();
        assert_eq!(found, Some(passage(number)));
    }
    let mut all = 0;
    let count = |_: &Passage, vectors: &[&[f32]]| {
        assert_eq!(vectors.len(), 1);
        all += 1;
        Ok::<_, IndexError>(())
    };
    remote.for_each(count).unwrap();
    // The last one may have been committed without an acknowledgement.
    assert!(
        (0..=1).contains(&(all - 100 - (acknowledged - 1_000))),
        "{all}"
    );
}
