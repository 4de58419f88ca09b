//! Changes of an open index: after any changes it behaves like an index that was just built from
//! the passages that it should hold.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{fingerprints, options};
use onegen_index::{
    BuildOptions, Change, ChangeCounts, Filter, Hit, Index, IndexBuilder, IndexError, Part,
    Passage, SearchOptions,
};
use proptest::prelude::*;
use serde_json::json;

const DIMENSION: usize = 4;
/// Few enough that merges happen all the time.
const DELTA_VECTORS: usize = 5;

/// Few directions, so that scores are often equal.
type Direction = [i8; DIMENSION];

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<Edit>),
    Compact,
    Settle,
    Reopen,
}

#[derive(Debug, Clone)]
enum Edit {
    Upsert {
        id: u8,
        vectors: Vec<Direction>,
        document: Option<u8>,
    },
    Delete(u8),
    DeleteDocument(u8),
}

fn direction() -> impl Strategy<Value = Direction> {
    prop::array::uniform4(-1i8..=1)
        .prop_filter("zero has no direction", |d| d.iter().any(|&x| x != 0))
}

fn edit() -> impl Strategy<Value = Edit> {
    let upsert = (
        0u8..12,
        prop::collection::vec(direction(), 1..3),
        prop::option::of(0u8..3),
    );
    prop_oneof![
        6 => upsert.prop_map(|(id, vectors, document)| Edit::Upsert { id, vectors, document }),
        3 => (0u8..14).prop_map(Edit::Delete),
        1 => (0u8..3).prop_map(Edit::DeleteDocument),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(edit(), 1..6).prop_map(Step::Apply),
        1 => Just(Step::Compact),
        1 => Just(Step::Settle),
        2 => Just(Step::Reopen),
    ]
}

fn passage(id: u8, document: Option<u8>) -> Passage {
    Passage {
        id: format!("p{id}"),
        title: format!("Title {id}"),
        text: format!("Text {id} of {document:?}"),
        url: None,
        metadata: json!({ "even": id.is_multiple_of(2), "id": id })
            .as_object()
            .cloned(),
        part: document.map(|document| Part {
            document: format!("d{document}"),
            start: usize::from(id),
            end: usize::from(id) + 4,
        }),
    }
}

fn floats(directions: &[Direction]) -> Vec<Vec<f32>> {
    let float = |d: &Direction| d.iter().map(|&x| f32::from(x)).collect();
    directions.iter().map(float).collect()
}

/// The passages that an index should hold, in the order in which they were last put in.
#[derive(Default)]
struct Model(Vec<(u8, Vec<Direction>, Option<u8>)>);

impl Model {
    fn apply(&mut self, edits: &[Edit]) -> ChangeCounts {
        let mut applied = ChangeCounts::default();
        for edit in edits {
            let before = self.0.len();
            match edit {
                Edit::Upsert {
                    id,
                    vectors,
                    document,
                } => {
                    self.0.retain(|(other, ..)| other != id);
                    applied.replaced += before - self.0.len();
                    applied.upserted += 1;
                    self.0.push((*id, vectors.clone(), *document));
                }
                Edit::Delete(id) => {
                    self.0.retain(|(other, ..)| other != id);
                    applied.deleted += before - self.0.len();
                }
                Edit::DeleteDocument(document) => {
                    self.0.retain(|(.., of)| *of != Some(*document));
                    applied.deleted += before - self.0.len();
                }
            }
        }
        applied
    }

    /// An index that was built of just these passages.
    fn build(&self, dir: &Path) -> Index {
        let mut builder = IndexBuilder::create(dir, options(DIMENSION)).unwrap();
        for (id, vectors, document) in &self.0 {
            builder
                .add(&passage(*id, *document), &floats(vectors))
                .unwrap();
        }
        builder.finish().unwrap();
        Index::open(dir).unwrap()
    }
}

fn changes(edits: &[Edit]) -> Vec<Change> {
    let change = |edit: &Edit| match edit {
        Edit::Upsert {
            id,
            vectors,
            document,
        } => Change::Upsert {
            passage: passage(*id, *document),
            vectors: floats(vectors),
        },
        Edit::Delete(id) => Change::Delete {
            id: format!("p{id}"),
        },
        Edit::DeleteDocument(id) => Change::DeleteDocument {
            id: format!("d{id}"),
        },
    };
    edits.iter().map(change).collect()
}

/// Everything that can be asked of an index.
fn answers(index: &Index) -> Vec<Vec<Hit>> {
    let queries: [[f32; DIMENSION]; 3] =
        [[1., 0., 0., 0.], [1., 1., 0., -1.], [-0.3, 0.2, 0.9, 0.1]];
    let filters = [
        None,
        Some(json!({"type": "eq", "key": "even", "value": true})),
        Some(json!({"type": "gte", "key": "id", "value": 9})),
    ];
    let mut answers = Vec::new();
    for query in queries {
        for filter in &filters {
            for (k, exact) in [(1, false), (4, false), (50, false), (4, true)] {
                let options = SearchOptions {
                    filter: filter.as_ref().map(|f| Filter::from_json(f).unwrap()),
                    exact,
                    ..SearchOptions::new(k)
                };
                answers.push(index.search(&query, &options).unwrap());
            }
        }
        let least = SearchOptions {
            min_score: Some(0.5),
            ..SearchOptions::new(50)
        };
        answers.push(index.search(&query, &least).unwrap());
    }
    answers
}

fn all(index: &Index) -> Vec<(Passage, Vec<Vec<f32>>)> {
    let mut all = Vec::new();
    index
        .for_each(|passage, vectors| {
            all.push((
                passage.clone(),
                vectors.iter().map(|v| v.to_vec()).collect(),
            ));
            Ok::<_, IndexError>(())
        })
        .unwrap();
    all
}

fn same(index: &Index, model: &Model, home: &Path) -> Result<(), TestCaseError> {
    let wanted = model.build(&home.join("wanted"));
    prop_assert_eq!(index.passages(), model.0.len() as u64);
    prop_assert_eq!(all(index), all(&wanted));
    prop_assert_eq!(answers(index), answers(&wanted));
    for id in 0..14u8 {
        let id = format!("p{id}");
        prop_assert_eq!(index.get(&id).unwrap(), wanted.get(&id).unwrap());
    }
    let passages: Vec<Passage> = all(&wanted).into_iter().map(|(p, _)| p).collect();
    let ids = (0..3u8).map(|id| format!("d{id}"));
    for id in ids.chain((0..14u8).map(|id| format!("p{id}"))) {
        let mut own: Vec<_> = passages.iter().filter(|p| p.document_id() == id).collect();
        own.sort_by_key(|passage| passage.part.as_ref().map(|part| part.start));
        let document = index.document(&id).unwrap();
        prop_assert_eq!(document.iter().collect::<Vec<_>>(), own);
    }
    Ok(())
}

/// Builds an empty index of which every segment of more than 8 vectors gets a graph.
fn empty(dir: &Path) -> Index {
    let options = BuildOptions {
        exact_scan_limit: 8,
        ..options(DIMENSION)
    };
    IndexBuilder::create(dir, options)
        .unwrap()
        .finish()
        .unwrap();
    Index::open_for_changes_with(dir, DELTA_VECTORS).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_behaves_as_a_fresh_index_of_what_is_left(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let mut index = empty(&dir);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Apply(edits) => {
                    prop_assert_eq!(index.apply(changes(&edits)).unwrap(), model.apply(&edits));
                }
                Step::Compact => {
                    index.compact().unwrap();
                    let stats = index.stats();
                    prop_assert!(stats.segments.len() <= 1 && stats.deleted == 0);
                }
                Step::Settle => index.settle().unwrap(),
                Step::Reopen => {
                    // An index that is opened only for reading gives the same answers.
                    same(&Index::open(&dir).unwrap(), &model, home.path())?;
                    drop(index);
                    index = Index::open_for_changes_with(&dir, DELTA_VECTORS).unwrap();
                }
            }
            same(&index, &model, home.path())?;
        }
        drop(index);
        let verification = onegen_index::verify(&dir).unwrap();
        prop_assert!(verification.findings.is_empty(), "{:?}", verification.findings);
    }
}

#[test]
fn searches_see_a_batch_whole_or_not_at_all_while_merges_run() {
    let home = tempfile::tempdir().unwrap();
    let index = empty(&home.path().join("index"));
    let done = AtomicBool::new(false);
    let rounds = 400u32;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let hits = index
                        .search(&[1.0, 0.0, 0.0, 0.0], &SearchOptions::new(10))
                        .unwrap();
                    let texts: Vec<_> = hits.iter().map(|hit| hit.passage.text.as_str()).collect();
                    // The four passages of a round are replaced together.
                    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
                    assert!(texts.is_empty() || texts.len() == 4, "{texts:?}");
                    let round = texts.first().map_or(0, |text| text.parse::<u32>().unwrap());
                    assert!(round >= last, "round {round} after {last}");
                    last = round;
                }
            });
        }
        for round in 1..=rounds {
            let batch = (0..4).map(|id| Change::Upsert {
                passage: Passage {
                    text: round.to_string(),
                    ..passage(id, None)
                },
                vectors: vec![vec![1.0, 0.0, f32::from(id) / 10.0, 0.0]],
            });
            index.apply(batch.collect()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    index.settle().unwrap();
    assert_eq!(index.passages(), 4);
}

#[test]
fn many_threads_change_one_index_and_nothing_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let index = empty(&dir);
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let index = &index;
            scope.spawn(move || {
                for n in 0..20u8 {
                    let change = Change::Upsert {
                        passage: Passage {
                            id: format!("{thread}-{n}"),
                            ..passage(n, None)
                        },
                        vectors: vec![vec![1.0, f32::from(n), 0.0, f32::from(thread)]],
                    };
                    index.apply(vec![change]).unwrap();
                    assert!(index.get(&format!("{thread}-{n}")).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(index.passages(), 160);
    drop(index);
    assert_eq!(Index::open(&dir).unwrap().passages(), 160);
}

#[test]
fn only_one_may_change_an_index_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let index = empty(&dir);
    let error = Index::open_for_changes(&dir).unwrap_err();
    assert!(matches!(error, IndexError::Locked { .. }), "{error}");
    let error = IndexBuilder::create(&dir, options(DIMENSION))
        .unwrap()
        .finish()
        .unwrap_err();
    assert!(matches!(error, IndexError::Locked { .. }), "{error}");
    let reader = Index::open(&dir).unwrap();
    let error = reader
        .apply(vec![Change::Delete { id: "p".into() }])
        .unwrap_err();
    assert!(matches!(error, IndexError::ReadOnly { .. }), "{error}");
    drop(index);
    Index::open_for_changes(&dir)
        .unwrap()
        .check_fingerprints(&fingerprints())
        .unwrap();
}

#[test]
fn a_refused_change_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let index = empty(&home.path().join("index"));
    let good = Change::Upsert {
        passage: passage(1, None),
        vectors: vec![vec![1.0; DIMENSION]],
    };
    for vectors in [
        vec![],
        vec![vec![0.0; DIMENSION]],
        vec![vec![1.0; 3]],
        vec![vec![f32::NAN; DIMENSION]],
    ] {
        let bad = Change::Upsert {
            passage: passage(2, None),
            vectors,
        };
        assert!(index.apply(vec![good.clone(), bad]).is_err());
        assert_eq!(index.passages(), 0);
    }
    index.apply(vec![good]).unwrap();
    assert_eq!(index.passages(), 1);
}

#[test]
fn a_passage_that_is_replaced_again_and_again_fills_neither_log_nor_memory() {
    let home = tempfile::tempdir().unwrap();
    let index = empty(&home.path().join("index"));
    for n in 0..DELTA_VECTORS as u8 {
        let vectors = vec![vec![1.0, f32::from(n), 0.0, 0.0]];
        let passage = passage(1, None);
        index
            .apply(vec![Change::Upsert { passage, vectors }])
            .unwrap();
    }
    index.settle().unwrap();
    let stats = index.stats();
    assert_eq!((stats.passages, stats.in_log), (1, 0), "{stats:?}");
}
