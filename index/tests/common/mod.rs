//! Helpers that the tests share: passages and vectors from a seed.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod vectors;

use std::fs;
use std::path::{Path, PathBuf};

use onegen_index::{
    BuildOptions, Fingerprints, Index, IndexBuilder, IndexError, Ingested, MANIFEST_FILE, Manifest,
    Passage,
};

pub(crate) fn fingerprints() -> Fingerprints {
    Fingerprints {
        name: "almanac".into(),
        model: "m0de1".into(),
        tokenizer: "t0ken".into(),
        template: "temp1ate".into(),
    }
}

pub(crate) fn options(dimension: usize) -> BuildOptions {
    BuildOptions::new(dimension, fingerprints())
}

/// Options with which any collection gets a graph.
pub(crate) fn graph_options(dimension: usize) -> BuildOptions {
    BuildOptions {
        exact_scan_limit: 0,
        ..options(dimension)
    }
}

pub(crate) fn passage(number: usize) -> Passage {
    Passage {
        id: format!("id-{number}"),
        title: format!("Title {number}"),
        text: format!("The text of number {number}."),
        url: number
            .is_multiple_of(2)
            .then(|| format!("https://example.org/{number}")),
        metadata: None,
        part: None,
    }
}

/// Builds an index of one passage a vector.
pub(crate) fn build(dir: &Path, options: BuildOptions, vectors: &[Vec<f32>]) -> Manifest {
    let mut builder = IndexBuilder::create(dir, options).unwrap();
    for (number, vector) in vectors.iter().enumerate() {
        builder
            .add(&passage(number), std::slice::from_ref(vector))
            .unwrap();
    }
    builder.finish().unwrap()
}

/// Names of everything in a directory, hidden entries too.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A file of real data, if it lies beside the project.
pub(crate) fn shared_data(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(name);
    let content = fs::read_to_string(&path).ok();
    if content.is_none() {
        println!("skipped: {} is not there", path.display());
    }
    content
}

/// Passages and their vectors, in order.
pub(crate) type Content = Vec<(Passage, Vec<Vec<f32>>)>;

/// Everything an index holds.
pub(crate) fn all(index: &Index) -> Result<Content, IndexError> {
    let mut all = Vec::new();
    index.for_each(|passage, vectors| {
        let vectors = vectors.iter().map(|v| v.to_vec()).collect();
        all.push((passage.clone(), vectors));
        Ok::<_, IndexError>(())
    })?;
    Ok(all)
}

/// How often something is tried. The environment variable `variable` can ask for more than CI does.
pub(crate) fn rounds(variable: &str, usual: usize) -> usize {
    let rounds = std::env::var(variable).map(|rounds| rounds.parse().unwrap());
    rounds.unwrap_or(usual)
}

/// Fails unless `dir` holds the files that its manifest names, and no other.
pub(crate) fn assert_no_leftovers(dir: &Path) {
    let manifest = Manifest::read(dir).unwrap();
    let mut wanted = vec![MANIFEST_FILE.to_owned(), "writer.lock".to_owned()];
    for segment in &manifest.segments {
        wanted.push(format!("segment-{:06}", segment.number));
        let tombstones = segment.tombstones.iter();
        wanted.extend(tombstones.map(|t| format!("tombstones-{:06}", t.number)));
    }
    let logs = manifest.logs.iter();
    wanted.extend(logs.map(|log| format!("changes-{log:06}.log")));
    wanted.sort();
    assert_eq!(names(dir), wanted);
}

/// Fails if `verify` finds anything.
pub(crate) fn assert_whole(dir: &Path) {
    let verification = onegen_index::verify(dir).unwrap();
    assert!(
        verification.findings.is_empty(),
        "{:?}",
        verification.findings
    );
}

/// Progress of a build that has read so many records.
pub(crate) fn ingested(records: u64) -> Ingested {
    Ingested {
        records,
        ..Ingested::default()
    }
}
