//! However the delta is searched, the results are those of a scan: through its graph, during a merge,
//! with deletions, copies and filters.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::vectors::clustered;
use common::{options, passage};
use onegen_index::{Change, DeltaOptions, Filter, Index, IndexBuilder, Passage, SearchOptions};
use serde_json::json;

const DIMENSION: usize = 48;
const VECTORS: usize = 6_000;

/// An empty index whose delta gets a graph early.
fn open(dir: &Path, merge_from: usize) -> Index {
    IndexBuilder::create(dir, options(DIMENSION))
        .unwrap()
        .finish()
        .unwrap();
    let delta = DeltaOptions {
        merge_from,
        graph_from: 500,
    };
    Index::open_for_changes_with_delta(dir, delta).unwrap()
}

fn numbered(number: usize) -> Passage {
    let metadata = json!({"even": number.is_multiple_of(2), "thousandth": number % 1000 == 7});
    Passage {
        metadata: metadata.as_object().cloned(),
        ..passage(number)
    }
}

fn upsert(number: usize, vector: &[f32]) -> Change {
    Change::Upsert {
        passage: numbered(number),
        vectors: vec![vector.to_vec()],
    }
}

/// Puts vectors in and waits until the graph holds all of them.
fn put(index: &Index, vectors: &[Vec<f32>]) {
    for (batch, vectors) in vectors.chunks(500).enumerate() {
        let changes = (batch * 500..).zip(vectors);
        let changes = changes.map(|(n, vector)| upsert(n, vector)).collect();
        index.apply(changes).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while index.stats().in_log_graph < vectors.len() as u64 {
        assert!(Instant::now() < deadline, "{:?}", index.stats());
        thread::sleep(Duration::from_millis(10));
    }
}

/// The share of the ten best that a search finds. Among equal scores any counts as found.
fn recall(index: &Index, queries: &[Vec<f32>], filter: Option<&Filter>) -> f64 {
    let through = SearchOptions {
        filter: filter.cloned(),
        ..SearchOptions::new(10)
    };
    let exact = SearchOptions {
        exact: true,
        ..through.clone()
    };
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let truth = index.search(query, &exact).unwrap();
        let hits = index.search(query, &through).unwrap();
        assert_eq!(hits.len(), truth.len());
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
        let ids: HashSet<_> = hits.iter().map(|hit| &hit.passage.id).collect();
        assert_eq!(ids.len(), hits.len());
        let least = truth.last().map_or(f32::MAX, |hit| hit.score);
        found += hits.iter().filter(|hit| hit.score >= least).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn the_graph_finds_what_a_scan_finds_in_any_order_and_with_copies() {
    let mut vectors = clustered(1, VECTORS + 100, DIMENSION, 40);
    let queries = vectors.split_off(VECTORS);
    let mut topics = vectors.clone();
    for (n, vector) in topics.iter_mut().enumerate() {
        // The clusters one after the other.
        vector.clone_from(&vectors[n % (VECTORS / 40) * 40 + n / (VECTORS / 40)]);
    }
    let mut copies = vectors.clone();
    for n in (0..VECTORS).step_by(10) {
        copies[n].clone_from(&vectors[10]);
    }
    for (name, vectors) in [
        ("clustered", vectors),
        ("topics", topics),
        ("copies", copies),
    ] {
        let home = tempfile::tempdir().unwrap();
        let index = open(&home.path().join("index"), usize::MAX);
        put(&index, &vectors);
        let recall = recall(&index, &queries, None);
        println!("{name}: recall@10 {recall}");
        assert!(recall >= 0.95, "{name}: {recall}");
    }
}

#[test]
fn copies_of_one_vector_come_in_the_order_in_which_they_were_put_in() {
    let home = tempfile::tempdir().unwrap();
    let index = open(&home.path().join("index"), usize::MAX);
    let mut vectors = clustered(2, VECTORS, DIMENSION, 40);
    for n in (5..VECTORS).step_by(10) {
        vectors[n] = vectors[5].clone();
    }
    put(&index, &vectors);
    let options = SearchOptions::new(30);
    let hits = index.search(&vectors[5], &options).unwrap();
    let ids: Vec<String> = hits.into_iter().map(|hit| hit.passage.id).collect();
    let wanted: Vec<String> = (0..30).map(|n| passage(5 + 10 * n).id).collect();
    assert_eq!(ids, wanted);
}

#[test]
fn what_was_deleted_or_replaced_is_never_found_again() {
    let home = tempfile::tempdir().unwrap();
    let index = open(&home.path().join("index"), usize::MAX);
    let mut vectors = clustered(3, VECTORS + 50, DIMENSION, 40);
    let queries = vectors.split_off(VECTORS);
    put(&index, &vectors);
    for share in [5, 2] {
        let gone: Vec<Change> = (0..VECTORS)
            .filter(|n| n % share == 0)
            .map(|n| Change::Delete { id: passage(n).id })
            .collect();
        index.apply(gone).unwrap();
        for query in &queries {
            for hit in index.search(query, &SearchOptions::new(20)).unwrap() {
                let number: usize = hit.passage.id["id-".len()..].parse().unwrap();
                assert_ne!(number % share, 0, "{number}");
            }
        }
        let recall = recall(&index, &queries, None);
        assert!(recall >= 0.95, "one of {share} deleted: {recall}");
    }
    // These passages are replaced by vectors in another direction.
    let away: Vec<f32> = vectors[1].iter().map(|x| -x).collect();
    index.apply(vec![upsert(1, &away)]).unwrap();
    let best = &index.search(&vectors[1], &SearchOptions::new(5)).unwrap();
    assert!(best.iter().all(|hit| hit.passage.id != passage(1).id));
    let best = index.search(&away, &SearchOptions::new(1)).unwrap();
    assert_eq!(best[0].passage.id, passage(1).id);
}

#[test]
fn a_filter_leaves_the_best_of_what_it_allows_however_few_that_are() {
    let home = tempfile::tempdir().unwrap();
    let index = open(&home.path().join("index"), usize::MAX);
    let mut vectors = clustered(4, VECTORS + 50, DIMENSION, 40);
    let queries = vectors.split_off(VECTORS);
    put(&index, &vectors);
    for filter in ["even=true", "thousandth=true", "even=nothing"] {
        let filter: Filter = filter.parse().unwrap();
        for hit in index
            .search(
                &queries[0],
                &SearchOptions {
                    filter: Some(filter.clone()),
                    ..SearchOptions::new(10)
                },
            )
            .unwrap()
        {
            assert!(filter.matches(hit.passage.metadata.as_ref()));
        }
        if !filter.matches(numbered(1007).metadata.as_ref())
            && !filter.matches(numbered(0).metadata.as_ref())
        {
            continue;
        }
        let recall = recall(&index, &queries, Some(&filter));
        assert!(recall >= 0.95, "{filter:?}: {recall}");
    }
}

#[test]
fn searches_beside_insertions_and_merges_see_whole_batches_and_find_what_a_scan_finds() {
    let home = tempfile::tempdir().unwrap();
    let index = open(&home.path().join("index"), 1_500);
    let mut vectors = clustered(5, VECTORS + 50, DIMENSION, 40);
    let queries = vectors.split_off(VECTORS);
    let (done, put_in) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for query in queries.iter().take(2) {
            let (index, done, put_in) = (&index, &done, &put_in);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let before = put_in.load(Ordering::SeqCst);
                    let hits = index.search(query, &SearchOptions::new(10)).unwrap();
                    assert_eq!(hits.len(), 10.min(hits.len().max(before)));
                    let ids: HashSet<_> = hits.iter().map(|hit| &hit.passage.id).collect();
                    assert_eq!(ids.len(), hits.len());
                }
            });
        }
        for (batch, vectors) in vectors.chunks(500).enumerate() {
            let changes = (batch * 500..).zip(vectors);
            index
                .apply(changes.map(|(n, vector)| upsert(n, vector)).collect())
                .unwrap();
            put_in.fetch_add(vectors.len(), Ordering::SeqCst);
            let recall = recall(&index, &queries, None);
            assert!(recall >= 0.95, "after {batch} batches: {recall}");
        }
        done.store(true, Ordering::Relaxed);
    });
    index.settle().unwrap();
    assert_eq!(index.passages(), VECTORS as u64);
    assert!(recall(&index, &queries, None) >= 0.95);
}

#[test]
fn an_index_that_is_opened_again_gets_its_graph_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(6, 1_000, DIMENSION, 10);
    put(&open(&dir, usize::MAX), &vectors);
    let delta = DeltaOptions {
        merge_from: usize::MAX,
        graph_from: 500,
    };
    let index = Index::open_for_changes_with_delta(&dir, delta).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while index.stats().in_log_graph < 1_000 {
        assert!(Instant::now() < deadline, "{:?}", index.stats());
        thread::sleep(Duration::from_millis(10));
    }
}
