//! Helpers that the tests of several files share.

#[path = "../tests/common/vectors.rs"]
mod vectors;

use std::sync::Arc;

use serde_json::{Map, Value};
use tempfile::TempDir;

pub(crate) use self::vectors::{clustered, e5_vectors};
use crate::build::builder::{BuildOptions, IndexBuilder};
use crate::fingerprints::Fingerprints;
use crate::live::change::{Change, CheckedChange, DeltaPassage};
use crate::live::index::Index;
use crate::segment::passages::Passage;
use crate::segment::vectors::{VectorStore, VectorWriter, normalised};

/// The fingerprints of a model and of the tokenizer and template that all models of tests share.
pub(crate) fn fingerprints(model: &str) -> Fingerprints {
    Fingerprints {
        name: "almanac".into(),
        model: model.into(),
        tokenizer: "t".into(),
        template: "p".into(),
    }
}

/// A passage with nothing but an id and metadata.
fn passage(id: usize, metadata: Option<Map<String, Value>>) -> Passage {
    Passage {
        id: id.to_string(),
        title: String::new(),
        text: String::new(),
        url: None,
        metadata,
        part: None,
    }
}

/// An index of bare passages with one vector each, in a directory that goes away with the test.
pub(crate) fn index_of(vectors: &[Vec<f32>]) -> (TempDir, Index) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let options = BuildOptions::new(vectors[0].len(), fingerprints("m"));
    let mut builder = IndexBuilder::create(&dir, options).unwrap();
    for (id, vector) in vectors.iter().enumerate() {
        builder
            .add(&passage(id, None), std::slice::from_ref(vector))
            .unwrap();
    }
    builder.finish().unwrap();
    (home, Index::open(&dir).unwrap())
}

/// A passage as the delta holds it, with these vectors and nothing but an id and metadata.
pub(crate) fn delta_passage(
    id: usize,
    vectors: Vec<Vec<f32>>,
    metadata: Option<Map<String, Value>>,
) -> Arc<DeltaPassage> {
    let passage = passage(id, metadata);
    let dimension = vectors[0].len();
    match (Change::Upsert { passage, vectors })
        .prepare(dimension)
        .unwrap()
    {
        CheckedChange::Upsert(passage) => passage,
        other => panic!("{other:?}"),
    }
}

/// The store of some vectors, each with its passage.
pub(crate) fn store(vectors: &[(u32, Vec<f32>)]) -> (TempDir, VectorStore) {
    let home = tempfile::tempdir().unwrap();
    let dimension = vectors[0].1.len();
    let mut writer = VectorWriter::create(home.path(), dimension).unwrap();
    for (owner, vector) in vectors {
        let unit = normalised(vector, dimension).unwrap();
        writer.push(*owner, &unit).unwrap();
    }
    writer.finish().unwrap();
    let store = VectorStore::open_written(home.path(), dimension).unwrap();
    (home, store)
}

/// One vector a passage.
pub(crate) fn singles(vectors: Vec<Vec<f32>>) -> Vec<(u32, Vec<f32>)> {
    (0..).zip(vectors).collect()
}
