//! A search with a filter finds the best passages that the filter allows, and `k` of them if there are
//! `k`, whatever share of all passages the filter allows.

#![allow(clippy::unwrap_used)]

mod common;

use common::vectors::clustered;
use common::{options, passage};
use onegen_index::{
    Change, Filter, Hit, Index, IndexBuilder, Passage, SearchOptions, SegmentSearch,
};
use serde_json::{Value, json};

const DIMENSION: usize = 48;
const PASSAGES: usize = 12_000;
const K: usize = 10;

/// A passage with metadata by which filters can allow any share of all passages.
fn described(number: usize) -> Passage {
    let mut of = vec![10, 100, 1000];
    of.retain(|&n| number.is_multiple_of(n));
    Passage {
        metadata: json!({
            "number": number,
            "half": number.is_multiple_of(2),
            "of": of,
        })
        .as_object()
        .cloned(),
        ..passage(number)
    }
}

fn allows(filter: &Filter, hit: &Hit) -> bool {
    filter.matches(hit.passage.metadata.as_ref())
}

#[test]
fn k_are_found_where_k_are_allowed_at_every_share_of_the_passages() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let mut vectors = clustered(5, PASSAGES + 20, DIMENSION, 60);
    let queries = vectors.split_off(PASSAGES);
    // Most are in a segment with a graph, the last ones in the log.
    let in_segment = PASSAGES - 500;
    let mut builder = IndexBuilder::create(&dir, options(DIMENSION)).unwrap();
    for (number, vector) in vectors[..in_segment].iter().enumerate() {
        builder.add(&described(number), &[vector]).unwrap();
    }
    builder.finish().unwrap();
    let index = Index::open_for_changes(&dir).unwrap();
    let upsert = |number: usize| Change::Upsert {
        passage: described(number),
        vectors: vec![vectors[number].clone()],
    };
    index
        .apply((in_segment..PASSAGES).map(upsert).collect())
        .unwrap();
    let stats = index.stats();
    assert!(matches!(stats.segments[0].search, SegmentSearch::Graph(_)));
    assert_eq!(stats.in_log, 500);

    let eq = |key: &str, value: Value| json!({"type": "eq", "key": key, "value": value});
    let shares = [
        (
            PASSAGES,
            json!({"type": "gte", "key": "number", "value": 0}),
        ),
        (
            PASSAGES - 1,
            json!({"type": "not", "filter": eq("number", json!(7))}),
        ),
        (PASSAGES / 2, eq("half", json!(true))),
        (PASSAGES / 10, eq("of", json!(10))),
        (PASSAGES / 100, eq("of", json!(100))),
        (PASSAGES / 1000, eq("of", json!(1000))),
        (
            3,
            json!({"type": "in", "key": "number", "value": [3, 11_999, 40, 99_999]}),
        ),
        (1, eq("number", json!(6_543))),
        (1, eq("number", json!(11_900))),
        (0, eq("number", json!(-1))),
    ];
    for (allowed, filter) in shares {
        let filter = Filter::from_json(&filter).unwrap();
        let options = SearchOptions {
            filter: Some(filter.clone()),
            ..SearchOptions::new(K)
        };
        let exact = SearchOptions {
            exact: true,
            ..options.clone()
        };
        let (mut found, mut wanted) = (0, 0);
        for query in &queries {
            let hits = index.search(query, &options).unwrap();
            assert_eq!(hits.len(), K.min(allowed), "{filter:?}");
            assert!(hits.iter().all(|hit| allows(&filter, hit)), "{filter:?}");
            let truth = index.search(query, &exact).unwrap();
            found += truth.iter().filter(|hit| hits.contains(hit)).count();
            wanted += truth.len();
        }
        assert!(
            found as f64 >= 0.95 * wanted as f64,
            "{filter:?}: {found} of {wanted}"
        );
    }
}

#[test]
fn a_minimum_score_leaves_what_reaches_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(6, 3_000, DIMENSION, 30);
    let index = {
        common::build(&dir, options(DIMENSION), &vectors);
        Index::open(&dir).unwrap()
    };
    let all = index.search(&vectors[4], &SearchOptions::new(50)).unwrap();
    for least in [all[0].score, all[20].score, -1.0] {
        let options = SearchOptions {
            min_score: Some(least),
            ..SearchOptions::new(50)
        };
        let hits = index.search(&vectors[4], &options).unwrap();
        let wanted = all.iter().filter(|hit| hit.score >= least).count();
        assert_eq!(hits, all[..wanted]);
    }
    let none = SearchOptions {
        min_score: Some(1.1),
        ..SearchOptions::new(50)
    };
    assert_eq!(index.search(&vectors[4], &none).unwrap(), []);
}
