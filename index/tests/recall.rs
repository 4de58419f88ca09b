//! A search finds the same as an exact scan. The recall of the graph alone is tested where the
//! graph is built.

#![allow(clippy::unwrap_used)]

mod common;

use common::vectors::{clustered, e5_vectors};
use common::{build, graph_options, options};
use onegen_index::{Index, SearchOptions, SegmentSearch};
use rand::random;

/// Share of the exact top `k` that a search through the graph returns.
fn recall(index: &Index, queries: &[Vec<f32>], k: usize) -> f64 {
    let search = &index.stats().segments[0].search;
    assert!(matches!(search, SegmentSearch::Graph(_)), "{search:?}");
    let through = SearchOptions::new(k);
    let exact = SearchOptions {
        exact: true,
        ..SearchOptions::new(k)
    };
    let mut found = 0;
    for query in queries {
        let exact = index.search(query, &exact).unwrap();
        let hits = index.search(query, &through).unwrap();
        assert_eq!(hits.len(), k);
        for hit in &hits {
            // The score of a hit does not depend on how it was found.
            found += usize::from(exact.contains(hit));
        }
        assert_eq!(hits, index.search(query, &through).unwrap());
    }
    found as f64 / (queries.len() * k) as f64
}

/// Recall for vectors that are not stored, with default options.
fn recall_on_clustered(count: usize) -> f64 {
    let seed: u64 = random();
    println!("seed {seed}");
    let mut vectors = clustered(seed, count + 200, 896, 100);
    let queries = vectors.split_off(count);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let manifest = build(&dir, options(896), &vectors);
    let measured = manifest.segments[0].graph.unwrap().calibration;
    let recall = recall(&Index::open(&dir).unwrap(), &queries, 10);
    println!("recall@10 {recall} where {measured:?}");
    recall
}

#[test]
fn recall_at_10_on_clustered_vectors_is_at_least_95_percent() {
    let recall = recall_on_clustered(10_000);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
#[ignore = "takes a minute and 1 GiB"]
fn recall_at_10_on_100_000_clustered_vectors_is_at_least_95_percent() {
    let recall = recall_on_clustered(100_000);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn queries_that_have_nothing_near_find_the_best_all_the_same() {
    let vectors = clustered(1, 20_000, 896, 20);
    let queries = clustered(2, 200, 896, 200);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let manifest = build(&dir, options(896), &vectors);
    let measured = manifest.segments[0].graph.unwrap().calibration;
    let index = Index::open(&dir).unwrap();
    let recalls = queries.chunks(10).map(|some| recall(&index, some, 10));
    let recalls: Vec<f64> = recalls.collect();
    println!("recall@10 {recalls:?} where {measured:?}");
    let least = recalls.iter().copied().fold(1.0, f64::min);
    assert!(least >= 0.95, "{least}");
}

#[test]
fn recall_at_10_on_real_embeddings_is_at_least_95_percent() {
    let Some(mut vectors) = e5_vectors() else {
        println!("skipped: the sample of E5 embeddings is not here");
        return;
    };
    assert_eq!(vectors.len(), 1_000);
    let queries = vectors.split_off(900);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, graph_options(768), &vectors);
    let recall = recall(&Index::open(&dir).unwrap(), &queries, 10);
    println!("recall@10 {recall}");
    assert!(recall >= 0.95, "recall@10 is {recall}");
}
