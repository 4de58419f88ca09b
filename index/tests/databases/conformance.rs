//! What holds in every database.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onegen_index::{
    BuildOptions, Change, DocumentRules, Filter, Fingerprints, Hit, Index, IndexBuilder,
    IndexError, Part, Passage, RemoteCollection, RemoteOptions, SearchOptions, VectorsPer, push,
};
use serde_json::json;
use tempfile::TempDir;

use crate::common::vectors::clustered;
use crate::common::{fingerprints, options, passage};

/// A database that a test has for itself.
pub(crate) trait Database {
    /// How often it is killed in the test of that; `ONEGEN_RESTARTS` says another number.
    const RESTARTS: usize;

    /// The address of a collection.
    fn address(&self, name: &str) -> String;
    /// Ends it as a crash of the machine would.
    fn kill(&mut self);
    /// Starts it again, and waits until it serves.
    fn run(&mut self);
    /// Has it hold connections and answer nothing.
    fn freeze(&self);
    /// Has it go on.
    fn thaw(&self);
}

pub(crate) const DIMENSION: usize = 32;

/// A passage with metadata of every kind, of which some have none and some belong to longer documents.
pub(crate) fn described(number: usize) -> Passage {
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

pub(crate) struct Built {
    _home: TempDir,
    pub(crate) index: Index,
    pub(crate) vectors: Vec<Vec<f32>>,
}

pub(crate) fn build(passages: usize, options: BuildOptions) -> Built {
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

pub(crate) fn pushed(database: &impl Database, name: &str, index: &Index) -> RemoteCollection {
    let address = database.address(name).parse().unwrap();
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

/// Fails unless both find the same; returns what the index finds for the last query.
fn assert_same_hits<'q>(
    index: &Index,
    remote: &RemoteCollection,
    queries: impl IntoIterator<Item = &'q Vec<f32>>,
    options: &SearchOptions,
) -> Vec<Hit> {
    let mut last = Vec::new();
    for query in queries {
        last = index.search(query, options).unwrap();
        assert_same(&last, &remote.search(query, options).unwrap());
    }
    last
}

pub(crate) fn a_pushed_index_answers_as_its_directory_does(database: &impl Database) {
    let Built { index, vectors, .. } = build(3_000, options(DIMENSION));
    let remote = pushed(database, "same", &index);
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
            let here = assert_same_hits(&index, &remote, [query], &options);
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
    assert_same_hits(&index, &remote, [&vectors[17]], &near);

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

pub(crate) fn changes_are_those_of_a_directory_and_are_seen_at_once(database: &impl Database) {
    let Built { index, vectors, .. } = build(200, options(DIMENSION));
    let remote = pushed(database, "changes", &index);
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
        assert_same_hits(
            &index,
            &remote,
            vectors.iter().step_by(20),
            &exact(10, None),
        );
    }
    let none = Change::Upsert {
        passage: described(1),
        vectors: vec![vec![0.0; DIMENSION]],
    };
    assert!(matches!(
        remote.apply(vec![none]),
        Err(IndexError::NoDirection { .. })
    ));
}

pub(crate) fn of_passages_with_several_vectors_each_is_found_once_by_its_best(
    database: &impl Database,
) {
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
    let remote = pushed(database, "several", &index);
    for k in [0, 1, 3, 40] {
        assert_same_hits(
            &index,
            &remote,
            vectors.iter().step_by(100),
            &exact(k, None),
        );
    }
}

pub(crate) fn what_is_no_collection_of_the_model_is_refused_by_name(database: &impl Database) {
    let Built { index, .. } = build(20, options(DIMENSION));
    let remote = pushed(database, "ours", &index);
    let other = Fingerprints {
        model: "0ther".into(),
        ..fingerprints()
    };
    assert!(remote.check_fingerprints(&fingerprints()).is_ok());
    let refused = remote.check_fingerprints(&other).unwrap_err().to_string();
    assert!(refused.contains("model differ"), "{refused}");

    let open = |table: &str| {
        RemoteCollection::open(
            &database.address(table).parse().unwrap(),
            RemoteOptions::default(),
        )
    };
    let said = |result: Result<RemoteCollection, IndexError>| result.unwrap_err().to_string();
    assert!(said(open("none")).contains("it holds no collection"));
    let address = database.address("ours").parse().unwrap();
    let again = push(&index, &address, RemoteOptions::default(), |_| ());
    assert!(said(again).contains("it holds a collection already"));
}

pub(crate) fn a_push_that_was_interrupted_goes_on(database: &mut impl Database) {
    let Built { index, vectors, .. } = build(4_500, options(DIMENSION));
    let address = database.address("interrupted").parse().unwrap();
    let quick = RemoteOptions {
        deadline: Duration::from_millis(500),
        ..RemoteOptions::default()
    };
    let mut batches = 0;
    let broken = push(&index, &address, quick, |_| {
        batches += 1;
        if batches == 2 {
            database.kill();
        }
    });
    assert!(
        matches!(broken, Err(IndexError::Unreachable { .. })),
        "{broken:?}"
    );
    database.run();
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
    assert_same_hits(
        &index,
        &remote,
        vectors.iter().step_by(900),
        &exact(10, None),
    );
}

pub(crate) fn a_collection_is_there_again_after_its_database_was_killed(
    database: &mut impl Database,
) {
    let Built { index, vectors, .. } = build(300, options(DIMENSION));
    drop(pushed(database, "lasting", &index));
    database.kill();
    database.run();
    let address = database.address("lasting").parse().unwrap();
    // It may serve a while before it has the collection.
    let end = Instant::now() + Duration::from_secs(90);
    let remote = loop {
        match RemoteCollection::open(&address, RemoteOptions::default()) {
            Ok(remote) => break remote,
            Err(IndexError::Unreachable { .. }) if Instant::now() < end => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(remote.passages(), 300);
    assert_same_hits(
        &index,
        &remote,
        vectors.iter().step_by(100),
        &exact(10, None),
    );
}

pub(crate) fn nobody_waits_for_a_database_that_is_away_and_it_is_used_when_it_is_back(
    database: &impl Database,
) {
    let Built { index, vectors, .. } = build(50, options(DIMENSION));
    pushed(database, "away", &index);
    let address = database.address("away").parse().unwrap();
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
    database.freeze();
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
    database.thaw();
    let end = Instant::now() + Duration::from_secs(20);
    while search().0.is_err() {
        assert!(Instant::now() < end, "it is not asked again");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!remote.remote_stats().is_open);
}

/// Kills the database again and again while documents are put in and searched for.
pub(crate) fn no_acknowledged_document_is_lost_when_the_database_is_killed<D: Database>(
    database: &mut D,
) {
    let restarts = std::env::var("ONEGEN_RESTARTS").map_or(D::RESTARTS, |n| n.parse().unwrap());
    let Built { index, vectors, .. } = build(100, options(DIMENSION));
    let remote = pushed(database, "killed", &index);
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
            let end = Instant::now() + Duration::from_secs(300);
            while acknowledged.load(Ordering::Relaxed) < before + 3 {
                if Instant::now() > end {
                    // Or the writer would go on for ever.
                    stop.store(true, Ordering::Relaxed);
                    panic!("nothing is acknowledged any more");
                }
                thread::sleep(Duration::from_millis(5));
            }
            database.kill();
            database.run();
        }
        stop.store(true, Ordering::Relaxed);
    });
    // It may serve a while before it has the collection.
    let end = Instant::now() + Duration::from_secs(60);
    while remote.get("id-0").is_err() {
        assert!(Instant::now() < end, "it does not come back");
        thread::sleep(Duration::from_millis(50));
    }
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
