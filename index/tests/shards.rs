//! Parts of a corpus that are indexed apart and joined equal an index of the whole.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::options;
use flate2::Compression;
use flate2::write::GzEncoder;
use onegen_index::{
    BuildOptions, Change, Corpus, DocumentRules, Embedder, Index, IndexError, IngestEvent,
    IngestOptions, Manifest, Passage, SearchOptions, SegmentRecord, Splitter, VectorsPer,
    build_from_corpus, merge_shards, verify,
};
use serde_json::json;
use tempfile::TempDir;

const DIMENSION: usize = 24;

/// Embeds a text by the bytes in it, so that texts with the same words have equal vectors.
struct Bytes;

impl Embedder for Bytes {
    type Error = String;

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, String> {
        let embed = |text: &str| {
            let mut vector = vec![0.1; DIMENSION];
            for (place, byte) in text.bytes().enumerate() {
                vector[usize::from(byte) % DIMENSION] += 1.0 + (place % 7) as f32;
            }
            vector
        };
        Ok(texts.iter().map(|(_, text)| Ok(embed(text))).collect())
    }
}

/// Documents of one to four passages, some equal, with two bad lines, an id that comes again far below, and one
/// that a part of another document gets.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for number in 0..200 {
        let sentence = |part| format!("Town {} has {} wells.", (number * 7) % 31, part);
        let text: Vec<String> = (0..=number % 4).map(sentence).collect();
        lines.push(
            json!({"id": format!("d{number}"), "title": "", "text": text.join(" ")}).to_string(),
        );
    }
    lines.insert(20, "{\"id\":".into());
    lines.insert(150, "[1]".into());
    lines.push(json!({"id": "d3", "text": "The fourth comes again."}).to_string());
    lines.push(json!({"id": "d7#2", "text": "It has the id of a part."}).to_string());
    lines
}

fn build_options() -> BuildOptions {
    BuildOptions {
        exact_scan_limit: 100,
        ..options(DIMENSION)
    }
}

fn ingest_options() -> IngestOptions {
    IngestOptions::new(DocumentRules {
        vectors: VectorsPer::Passage,
        split: Splitter::new(6, 0).unwrap(),
    })
}

/// Builds an index of a corpus or a part of it; how many records were bad.
fn build(corpus: &Path, shard: Option<&str>, out: &Path) -> u64 {
    let corpus = Corpus::open(corpus).unwrap();
    let corpus = match shard {
        Some(shard) => corpus.only(shard.parse().unwrap()),
        None => corpus,
    };
    let built = build_from_corpus(
        corpus,
        out,
        build_options(),
        ingest_options(),
        &Bytes,
        |_| (),
    );
    built.unwrap().1.bad_records
}

struct Home(TempDir);

impl Home {
    /// A directory with the index `whole` of a corpus.
    fn new(write: impl FnOnce(&Path) -> PathBuf) -> (Self, PathBuf, u64) {
        let home = Self(tempfile::tempdir().unwrap());
        let corpus = write(home.0.path());
        let bad = build(&corpus, None, &home.path("whole"));
        (home, corpus, bad)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Builds all parts; their directories and bad records.
    fn build_parts(&self, corpus: &Path, of: usize) -> (Vec<PathBuf>, u64) {
        let mut bad = 0;
        let parts = (1..=of).map(|number| {
            let dir = self.path(&format!("part-{number}-{of}"));
            bad += build(corpus, Some(&format!("{number}/{of}")), &dir);
            dir
        });
        (parts.collect(), bad)
    }
}

fn write_lines(home: &Path) -> PathBuf {
    let corpus = home.join("corpus.jsonl");
    fs::write(&corpus, lines().join("\n")).unwrap();
    corpus
}

/// All passages in their order, with their vectors.
fn content(dir: &Path) -> Vec<(Passage, Vec<Vec<f32>>)> {
    let mut content = Vec::new();
    let index = Index::open(dir).unwrap();
    index
        .for_each(|passage, vectors| {
            let vectors = vectors.iter().map(|vector| vector.to_vec()).collect();
            content.push((passage.clone(), vectors));
            Ok::<_, IndexError>(())
        })
        .unwrap();
    content
}

/// What exact scans find for the vectors of an index's own passages: ids and scores.
fn hits(dir: &Path, queries: &[Vec<f32>]) -> Vec<Vec<(String, f32)>> {
    let index = Index::open(dir).unwrap();
    let options = SearchOptions {
        exact: true,
        ..SearchOptions::new(10)
    };
    let found = queries
        .iter()
        .map(|query| index.search(query, &options).unwrap());
    found
        .map(|hits| hits.into_iter().map(|h| (h.passage.id, h.score)).collect())
        .collect()
}

/// The one segment of an index, but for its number.
fn segment(dir: &Path) -> SegmentRecord {
    let manifest = Manifest::read(dir).unwrap();
    let [segment] = manifest.segments.as_slice() else {
        panic!("{:?}", manifest.segments);
    };
    SegmentRecord {
        number: 0,
        ..segment.clone()
    }
}

fn assert_equal(home: &Home, corpus: &Path, of: usize, bad: u64) {
    let whole = home.path("whole");
    let (parts, bad_of_parts) = home.build_parts(corpus, of);
    assert_eq!(bad_of_parts, bad);
    let merged = home.path("merged");
    // The order in which parts are given does not matter.
    let reversed: Vec<_> = parts.iter().rev().cloned().collect();
    merge_shards(&merged, &reversed).unwrap();
    let expected = content(&whole);
    assert_eq!(content(&merged), expected, "{of} parts");
    let queries: Vec<_> = expected.into_iter().flat_map(|(_, v)| v).collect();
    assert_eq!(hits(&merged, &queries), hits(&whole, &queries));
    assert!(verify(&merged).unwrap().findings.is_empty());
    assert_eq!(Manifest::read(&merged).unwrap().shard, None);

    // The parts may go, and one segment has the files of a build in one go.
    for part in parts {
        fs::remove_dir_all(part).unwrap();
    }
    let index = Index::open_for_changes(&merged).unwrap();
    index.compact().unwrap();
    assert_eq!(segment(&merged), segment(&whole));
}

#[test]
fn joined_parts_equal_the_whole() {
    let (home, corpus, bad) = Home::new(write_lines);
    assert_eq!(bad, 3);
    for of in [1, 2, 3, 7, 50] {
        assert_equal(&home, &corpus, of, bad);
    }
}

#[test]
fn parts_may_be_empty() {
    let (home, corpus, bad) = Home::new(|home| {
        let corpus = home.join("corpus.jsonl");
        fs::write(&corpus, lines()[..3].join("\n")).unwrap();
        corpus
    });
    assert_equal(&home, &corpus, 40, bad);
}

#[test]
fn parts_of_compressed_lines_and_of_folders_equal_the_whole() {
    let (home, corpus, bad) = Home::new(|home| {
        let corpus = home.join("corpus.jsonl.gz");
        let file = fs::File::create(&corpus).unwrap();
        let mut gz = GzEncoder::new(file, Compression::fast());
        gz.write_all(lines().join("\n").as_bytes()).unwrap();
        gz.finish().unwrap();
        corpus
    });
    assert_equal(&home, &corpus, 3, bad);

    let (home, corpus, bad) = Home::new(|home| {
        let folder = home.join("folder");
        fs::create_dir_all(folder.join("deep")).unwrap();
        for (number, line) in lines().iter().take(40).enumerate() {
            fs::write(
                folder.join(format!("deep/{number}.md")),
                format!("# T\n\n{line}"),
            )
            .unwrap();
        }
        fs::write(folder.join("records.jsonl"), lines()[50..90].join("\n")).unwrap();
        folder
    });
    assert_equal(&home, &corpus, 4, bad);
}

#[test]
fn an_interrupted_part_goes_on() {
    let (home, corpus, _) = Home::new(write_lines);
    let shard = "2/3".parse().unwrap();
    let dir = home.path("part");
    let save_often = IngestOptions {
        save_every: std::time::Duration::ZERO,
        batch_texts: 8,
        ..ingest_options()
    };
    let begin = |fails_after: usize| {
        let mut embedded = 0;
        let mut resumed = 0;
        let failing = Failing {
            left: std::cell::Cell::new(fails_after),
        };
        let built = build_from_corpus(
            Corpus::open(&corpus).unwrap().only(shard),
            &dir,
            build_options(),
            save_often,
            &failing,
            |event| match event {
                IngestEvent::Resumed { passages, .. } => resumed = passages,
                IngestEvent::Embedded { passages, .. } => embedded = passages,
                _ => {}
            },
        );
        (built.is_ok(), resumed, embedded)
    };
    let (is_ok, _, embedded) = begin(5);
    assert!(!is_ok && embedded > 0);
    let (is_ok, resumed, _) = begin(usize::MAX);
    assert!(is_ok);
    assert_eq!(resumed, embedded);

    let whole = home.path("in-one-go");
    build(&corpus, Some("2/3"), &whole);
    assert_eq!(segment(&dir), segment(&whole));
}

/// [`Bytes`], which fails after some batches.
struct Failing {
    left: std::cell::Cell<usize>,
}

impl Embedder for Failing {
    type Error = String;

    fn count_tokens(&self, text: &str) -> usize {
        Bytes.count_tokens(text)
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, String> {
        let left = self.left.get().checked_sub(1).ok_or("worn out")?;
        self.left.set(left);
        Bytes.embed(texts)
    }
}

#[test]
fn of_two_indexes_with_the_same_document_the_first_one_stays() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let corpus = |name: &str, documents: &[(&str, &str)]| {
        let lines = documents
            .iter()
            .map(|(id, text)| json!({"id": id, "text": text}).to_string());
        let corpus = path(&format!("{name}.jsonl"));
        fs::write(&corpus, lines.collect::<Vec<_>>().join("\n")).unwrap();
        build(&corpus, None, &path(name));
    };
    let long = "One two three four. Five six seven eight. Nine ten eleven twelve.";
    corpus(
        "a",
        &[("same", "A short text."), ("split", long), ("a", "Only a.")],
    );
    corpus(
        "b",
        &[
            ("same", long),
            ("split", "Short."),
            ("b", long),
            ("deleted", "Gone."),
        ],
    );
    {
        // What a log deletes is deleted in the joined index, too.
        let index = Index::open_for_changes(path("b")).unwrap();
        let id = "deleted".into();
        index.apply(vec![Change::DeleteDocument { id }]).unwrap();
    }
    merge_shards(&path("joined"), &[path("a"), path("b")]).unwrap();
    let joined = content(&path("joined"));
    let ids: Vec<_> = joined
        .iter()
        .map(|(passage, _)| passage.id.as_str())
        .collect();
    assert_eq!(ids.iter().filter(|id| id.starts_with("same")).count(), 1);
    let of_split = joined.iter().filter(|(p, _)| p.document_id() == "split");
    assert_eq!(of_split.count(), 3);
    assert_eq!(
        joined
            .iter()
            .filter(|(p, _)| p.document_id() == "b")
            .count(),
        3
    );
    assert!(ids.contains(&"a") && !ids.contains(&"deleted"));
    assert_eq!(joined.len(), 8);
    assert!(verify(&path("joined")).unwrap().findings.is_empty());
}

#[test]
fn what_does_not_belong_together_is_named() {
    let (home, corpus, _) = Home::new(write_lines);
    let (parts, _) = home.build_parts(&corpus, 3);
    let (halves, _) = home.build_parts(&corpus, 2);
    let whole = home.path("whole");
    let out = home.path("out");
    let other = home.path("other");
    build_from_corpus(
        Corpus::open(&corpus).unwrap(),
        &other,
        BuildOptions {
            fingerprints: onegen_index::Fingerprints {
                model: "0ther".into(),
                ..common::fingerprints()
            },
            ..build_options()
        },
        ingest_options(),
        &Bytes,
        |_| (),
    )
    .unwrap();
    let changed = home.path("changed");
    build(&corpus, None, &changed);
    Index::open_for_changes(&changed)
        .unwrap()
        .apply(vec![Change::Upsert {
            passage: common::passage(1),
            vectors: vec![vec![1.0; DIMENSION]],
        }])
        .unwrap();
    let cases: [(Vec<&PathBuf>, &str); 8] = [
        (vec![], "no index is given"),
        (
            vec![&parts[0], &parts[2]],
            "part 2/3 of its corpus is not given",
        ),
        (
            vec![&parts[0], &parts[1]],
            "part 3/3 of its corpus is not given",
        ),
        (
            vec![&parts[0], &parts[0], &parts[1]],
            "part 1/3 is given twice",
        ),
        (
            vec![&parts[0], &halves[1], &parts[2]],
            "it is part 2/2 of a corpus",
        ),
        (vec![&whole, &parts[0]], "not all of the others are parts"),
        (vec![&whole, &other], "model differ"),
        (vec![&whole, &changed], "run `onegen-index compact"),
    ];
    for (shards, expected) in cases {
        let shards: Vec<_> = shards.into_iter().cloned().collect();
        let error = merge_shards(&out, &shards).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!out.exists());
    }
    assert!(matches!(
        merge_shards(&out, &[home.path("nothing")]),
        Err(IndexError::NotAnIndex { .. })
    ));
}
