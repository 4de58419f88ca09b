//! What goes into an index comes out of it, best first.

#![allow(clippy::unwrap_used)]

mod common;

use common::{build, clustered, fingerprints, graph_options, options, passage};
use onegen_index::{
    BuildEvent, BuildOptions, Corpus, Embedded, Fingerprints, GraphState, Index, IndexBuilder,
    IndexError, IngestError, IngestOptions, Passage, Position, build_from_corpus,
};
use proptest::prelude::*;
use serde_json::json;

#[test]
fn everything_that_was_added_is_found_by_number_by_id_and_by_vector() {
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
    assert_eq!(
        (manifest.passages, manifest.vectors, manifest.dimension),
        (51, 51, 24)
    );
    assert_eq!(manifest.fingerprints, fingerprints());
    assert_eq!(index.graph_state(), &GraphState::Exact);
    for (number, vector) in vectors.iter().enumerate() {
        assert_eq!(index.passage(number as u32).unwrap(), passage(number));
        let found = index.get(&format!("id-{number}")).unwrap();
        assert_eq!(found, Some((number as u32, passage(number))));
        let hit = &index.search(vector, 1).unwrap()[0];
        assert_eq!(
            (hit.number as usize, &hit.passage),
            (number, &passage(number))
        );
        assert!((hit.score - 1.0).abs() < 1e-6, "{}", hit.score);
    }
    assert_eq!(index.get(&rich.id).unwrap(), Some((50, rich)));
    assert_eq!(index.get("id-51").unwrap(), None);
    let error = index.passage(51).unwrap_err();
    assert!(matches!(
        error,
        IndexError::NoSuchPassage {
            number: 51,
            passages: 51
        }
    ));
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
        let numbers: Vec<u32> = index
            .search(&vectors[2], 20)
            .unwrap()
            .iter()
            .map(|h| h.number)
            .collect();
        if index.graph_state() == &GraphState::Exact {
            assert_eq!(numbers, (0..20).map(|n| 2 + 4 * n).collect::<Vec<u32>>());
        }
        assert!(numbers.is_sorted(), "{numbers:?}");
        let zeros: Vec<u32> = index.search_exact(&vectors[2], 110).unwrap()[100..]
            .iter()
            .map(|h| h.number)
            .collect();
        assert_eq!(zeros, [0, 1, 3, 4, 5, 7, 8, 9, 11, 12]);
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
        assert_eq!(builder.finish().unwrap().vectors, 900);
        let index = Index::open(&dir).unwrap();
        for query in vectors.iter().step_by(37) {
            let hits = index.search(query, 10).unwrap();
            let mut numbers: Vec<u32> = hits.iter().map(|hit| hit.number).collect();
            assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
            for hit in &hits {
                assert_eq!(hit.vector / 3, hit.number);
                let own = index
                    .search_exact(&vectors[hit.vector as usize], 1)
                    .unwrap();
                assert_eq!(own[0].number, hit.number);
            }
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 10);
        }
        assert_eq!(index.search(&vectors[0], 1000).unwrap().len(), 300);
        assert_eq!(index.search(&vectors[0], 0).unwrap(), []);
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
    // Lengths at both ends of f32 have a direction.
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
    let hits = index.search(&[0.0, f32::MAX], 2).unwrap();
    assert_eq!(
        hits.iter().map(|h| (h.number, h.score)).collect::<Vec<_>>(),
        [(1, 1.0), (0, 0.0)]
    );
    for vector in refused {
        index.search(vector, 1).unwrap_err();
    }
    assert!(matches!(
        index.search(&[1.0], 1),
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
    assert_eq!(index.search(&[1.0, 0.0, 0.0], 5).unwrap(), []);
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

/// Embeds a passage as its text's length and first byte.
fn embed(passages: &[Passage]) -> Result<Vec<Embedded>, String> {
    let vector = |text: &str| vec![vec![text.len() as f32, f32::from(text.as_bytes()[0])]];
    if passages.iter().any(|passage| passage.text == "broken") {
        return Err("out of memory".into());
    }
    let too_long = |text: &str| text == "long";
    Ok(passages
        .iter()
        .map(|p| {
            if too_long(&p.text) {
                Err("too long".into())
            } else {
                Ok(vector(&p.text))
            }
        })
        .collect())
}

fn corpus(lines: &str) -> Corpus {
    Corpus::from_lines(std::io::Cursor::new(lines.to_owned()))
}

const GOOD: &str = "{\"id\":\"a\",\"text\":\"A text\"}\n{\"id\":\"b\",\"text\":\"B\"}\n{\"id\":\"c\",\"text\":\"Cc\"}\n";

#[test]
fn a_corpus_becomes_an_index_and_bad_lines_are_reported() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let lines = format!(
        "{GOOD}nonsense\n{{\"id\":\"b\",\"text\":\"again\"}}\n{{\"id\":\"l\",\"text\":\"long\"}}\n\n{{\"id\":\"d\",\"text\":\"D\"}}"
    );
    let mut options = IngestOptions::new(graph_options(2));
    options.batch_passages = 2;
    let (mut bad, mut embedded, mut linked) = (Vec::new(), Vec::new(), Vec::new());
    let report = build_from_corpus(corpus(&lines), &dir, options, embed, |event| match event {
        BuildEvent::BadLine(error) => bad.push(error.to_string()),
        BuildEvent::Embedded {
            passages,
            bytes_read,
        } => embedded.push((passages, bytes_read)),
        BuildEvent::Linked { vectors, total } => linked.push((vectors, total)),
    })
    .unwrap();
    assert_eq!((report.manifest.passages, report.bad_lines), (4, 3));
    assert!(bad[0].starts_with("line 4: not a JSON object"), "{bad:?}");
    assert_eq!(bad[1], "line 5: has the id \"b\" of line 2");
    assert_eq!(bad[2], "line 6: cannot be embedded: too long");
    assert_eq!(embedded.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(embedded[2].1, lines.len() as u64);
    assert_eq!(linked, [(4, 4)]);
    let hits = Index::open(&dir).unwrap().search(&[6.0, 65.0], 1).unwrap();
    assert_eq!(hits[0].passage.id, "a");
}

#[test]
fn a_build_that_fails_leaves_the_old_index() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let strict = IngestOptions {
        strict: true,
        ..IngestOptions::new(options(2))
    };
    build_from_corpus(corpus(GOOD), &dir, strict.clone(), embed, |_| ()).unwrap();
    let run = |lines: &str| {
        build_from_corpus(corpus(lines), &dir, strict.clone(), embed, |_| ()).unwrap_err()
    };
    assert!(
        matches!(run(&format!("{GOOD}nonsense\n{GOOD}")), IngestError::Line(error) if error.position == Position::Line(4))
    );
    assert!(matches!(
        run("\n"),
        IngestError::NoPassages { bad_lines: 0 }
    ));
    let error = run("{\"id\":\"x\",\"text\":\"broken\"}");
    assert_eq!(
        error.to_string(),
        "cannot embed the passages from \"x\" on: out of memory"
    );
    assert_eq!(Index::open(&dir).unwrap().manifest().passages, 3);
    assert_eq!(common::names(home.path()), ["index"]);
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
        let hits = Index::open(&dir).unwrap().search(&query, k).unwrap();
        prop_assert_eq!(hits.len(), k.min(vectors.len()));
        let cosine = |v: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            dot(v, &query) / (dot(v, v) * dot(&query, &query)).sqrt()
        };
        let mut sorted: Vec<f64> = vectors.iter().map(|v| cosine(v)).collect();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        for (hit, wanted) in hits.iter().zip(&sorted) {
            prop_assert!((f64::from(hit.score) - wanted).abs() < 1e-6);
            prop_assert!((cosine(&vectors[hit.number as usize]) - wanted).abs() < 1e-6);
        }
        for pair in hits.windows(2) {
            prop_assert!(pair[0].score > pair[1].score || pair[0].score == pair[1].score && pair[0].number < pair[1].number);
        }
    }
}
