//! Passages that are put into an index are found, the best first.

#![allow(clippy::unwrap_used)]

mod common;

use common::vectors::clustered;
use common::{build, fingerprints, graph_options, options, passage};
use onegen_index::{
    BuildOptions, Fingerprints, Hit, Index, IndexBuilder, IndexError, SearchOptions, SegmentSearch,
};
use proptest::prelude::*;
use serde_json::json;

fn search(index: &Index, query: &[f32], k: usize) -> Vec<Hit> {
    index.search(query, &SearchOptions::new(k)).unwrap()
}

/// The numbers that the passages were made of.
fn numbers(hits: &[Hit]) -> Vec<usize> {
    let number = |hit: &Hit| hit.passage.id.strip_prefix("id-").unwrap().parse().unwrap();
    hits.iter().map(number).collect()
}

fn search_exact(index: &Index, query: &[f32], k: usize) -> Vec<Hit> {
    let options = SearchOptions {
        exact: true,
        ..SearchOptions::new(k)
    };
    index.search(query, &options).unwrap()
}

#[test]
fn everything_that_was_added_is_found_by_id_and_by_vector() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("nested/index");
    let vectors = clustered(1, 50, 24, 5);
    let mut rich = passage(50);
    rich.id = "Ünïcode \"id\"\n".into();
    rich.metadata = json!({"population": 34_000_000, "tags": ["a", null]})
        .as_object()
        .cloned();
    let mut builder = IndexBuilder::create(&dir, options(24)).unwrap();
    for (number, vector) in vectors.iter().enumerate() {
        builder.add(&passage(number), &[vector]).unwrap();
    }
    builder.add(&rich, &[[1.0; 24]]).unwrap();
    let manifest = builder.finish().unwrap();

    let index = Index::open(&dir).unwrap();
    assert_eq!(index.manifest(), &manifest);
    let stats = index.stats();
    assert_eq!((stats.passages, stats.vectors), (51, 51));
    assert_eq!(manifest.dimension, 24);
    assert_eq!(manifest.fingerprints, fingerprints());
    assert_eq!(stats.segments[0].search, SegmentSearch::Scan);
    for (number, vector) in vectors.iter().enumerate() {
        let found = index.get(&format!("id-{number}")).unwrap();
        assert_eq!(found, Some(passage(number)));
        let hit = &search(&index, vector, 1)[0];
        assert_eq!(hit.passage, passage(number));
        assert!((hit.score - 1.0).abs() < 1e-6, "{}", hit.score);
    }
    assert_eq!(index.get(&rich.id).unwrap(), Some(rich));
    assert_eq!(index.get("id-51").unwrap(), None);
}

#[test]
fn equal_scores_come_in_passage_order_with_a_graph_and_without() {
    for options in [options(8), graph_options(8)] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let vectors: Vec<Vec<f32>> = (0..400)
            .map(|n| (0..8).map(|d| f32::from(u8::from(d == n % 4))).collect())
            .collect();
        build(&dir, options, &vectors);
        let index = Index::open(&dir).unwrap();
        let numbers = numbers(&search(&index, &vectors[2], 20));
        if index.stats().segments[0].search == SegmentSearch::Scan {
            assert_eq!(numbers, (0..20).map(|n| 2 + 4 * n).collect::<Vec<usize>>());
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        let zeros = &search_exact(&index, &vectors[2], 110)[100..];
        assert_eq!(self::numbers(zeros), [0, 1, 3, 4, 5, 7, 8, 9, 11, 12]);
    }
}

#[test]
fn a_passage_of_several_vectors_is_found_once_by_its_best() {
    for options in [options(16), graph_options(16)] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let vectors = clustered(2, 900, 16, 9);
        let mut builder = IndexBuilder::create(&dir, options).unwrap();
        for (number, of_passage) in vectors.chunks(3).enumerate() {
            builder.add(&passage(number), of_passage).unwrap();
        }
        builder.finish().unwrap();
        let index = Index::open(&dir).unwrap();
        assert_eq!(index.stats().vectors, 900);
        for query in vectors.iter().step_by(37) {
            let hits = search(&index, query, 10);
            let mut numbers = numbers(&hits);
            assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
            for (hit, number) in hits.iter().zip(&numbers) {
                let vector = &vectors[number * 3 + hit.part as usize];
                let own = &search_exact(&index, vector, 1)[0];
                assert_eq!((&own.passage, own.part), (&hit.passage, hit.part));
            }
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 10);
        }
        assert_eq!(search(&index, &vectors[0], 1000).len(), 300);
        assert_eq!(search(&index, &vectors[0], 0), []);
    }
}

#[test]
fn vectors_without_direction_or_of_another_width_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let mut builder = IndexBuilder::create(&dir, options(2)).unwrap();
    let refused: [&[f32]; 5] = [
        &[0.0, 0.0],
        &[f32::NAN, 1.0],
        &[f32::INFINITY, 1.0],
        &[1.0],
        &[1.0, 2.0, 3.0],
    ];
    for vector in refused {
        builder.add(&passage(0), &[vector]).unwrap_err();
    }
    let none: [[f32; 2]; 0] = [];
    assert!(matches!(
        builder.add(&passage(0), &none),
        Err(IndexError::NoVector { .. })
    ));
    // Very long and very short vectors still have a direction.
    builder.add(&passage(0), &[[f32::MAX, 0.0]]).unwrap();
    builder
        .add(&passage(1), &[[0.0, f32::MIN_POSITIVE]])
        .unwrap();
    let error = builder.add(&passage(1), &[[1.0, 1.0]]).unwrap_err();
    assert!(
        matches!(error, IndexError::DuplicateId { ref id } if id == "id-1"),
        "{error}"
    );
    builder.finish().unwrap();
    let index = Index::open(&dir).unwrap();
    let hits = search(&index, &[0.0, f32::MAX], 2);
    let scores: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
    assert_eq!((numbers(&hits), scores), (vec![1, 0], vec![1.0, 0.0]));
    for vector in refused {
        index.search(vector, &SearchOptions::new(1)).unwrap_err();
    }
    assert!(matches!(
        index.search(&[1.0], &SearchOptions::new(1)),
        Err(IndexError::Dimension {
            expected: 2,
            got: 1
        })
    ));
}

#[test]
fn an_index_of_another_model_is_refused_naming_both() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(2), &[vec![1.0, 0.0]]);
    let index = Index::open(&dir).unwrap();
    index.check_fingerprints(&fingerprints()).unwrap();
    let other = Fingerprints {
        name: "bigger".into(),
        model: "0ther".into(),
        ..fingerprints()
    };
    let message = index.check_fingerprints(&other).unwrap_err().to_string();
    for part in ["almanac", "m0de1", "bigger", "0ther", "model differ"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let other = Fingerprints {
        tokenizer: "x".into(),
        template: "y".into(),
        ..fingerprints()
    };
    let message = index.check_fingerprints(&other).unwrap_err().to_string();
    assert!(message.contains("tokenizer, template differ"), "{message}");
}

#[test]
fn an_index_may_be_empty() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, graph_options(3), &[]);
    let index = Index::open(&dir).unwrap();
    assert_eq!(search(&index, &[1.0, 0.0, 0.0], 5), []);
    assert_eq!(index.get("x").unwrap(), None);
}

#[test]
fn options_without_sense_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let refused = |change: fn(&mut BuildOptions)| {
        let mut options = options(4);
        change(&mut options);
        assert!(matches!(
            IndexBuilder::create(&dir, options),
            Err(IndexError::Option { .. })
        ));
    };
    refused(|options| options.dimension = 0);
    refused(|options| options.graph.m = 1);
    refused(|options| options.graph.m = 1000);
    refused(|options| options.graph.ef_construction = 0);
    assert_eq!(common::names(home.path()), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn exact_search_is_sorting_by_cosine(
        vectors in prop::collection::vec(prop::collection::vec(-9i8..9, 5), 1..40),
        query in prop::collection::vec(1i8..9, 5),
        k in 0usize..45,
    ) {
        let float = |v: &[i8]| v.iter().map(|&x| f32::from(x)).collect::<Vec<f32>>();
        let vectors: Vec<Vec<f32>> =
            vectors.iter().filter(|v| v.iter().any(|&x| x != 0)).map(|v| float(v)).collect();
        let query = float(&query);
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        build(&dir, options(5), &vectors);
        let hits = search(&Index::open(&dir).unwrap(), &query, k);
        prop_assert_eq!(hits.len(), k.min(vectors.len()));
        let cosine = |v: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            dot(v, &query) / (dot(v, v) * dot(&query, &query)).sqrt()
        };
        let mut sorted: Vec<f64> = vectors.iter().map(|v| cosine(v)).collect();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let numbers = numbers(&hits);
        for ((hit, number), wanted) in hits.iter().zip(&numbers).zip(&sorted) {
            prop_assert!((f64::from(hit.score) - wanted).abs() < 1e-6);
            prop_assert!((cosine(&vectors[*number]) - wanted).abs() < 1e-6);
        }
        for (pair, numbers) in hits.windows(2).zip(numbers.windows(2)) {
            prop_assert!(pair[0].score > pair[1].score || pair[0].score == pair[1].score && numbers[0] < numbers[1]);
        }
    }
}
