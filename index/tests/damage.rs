//! A damaged index is either refused with the name of the file, or gives the same answers as
//! before. A directory that is not an index is not changed.
//!
//! `ONEGEN_DAMAGE_MUTATIONS` sets the number of mutations, for more than CI does.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use common::vectors::clustered;
use common::{Content, all, assert_no_leftovers, assert_whole, build, graph_options, names};
use common::{ingested, options, passage, rounds};
use onegen_index::{
    BuildOptions, Change, Filter, Hit, Index, IndexBuilder, IndexError, MANIFEST_FILE, Manifest,
    Part, Passage, Remedy, SearchOptions, SegmentSearch, verify,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, random};
use serde_json::{Value, json};

const DIMENSION: usize = 320;
const CODES: &str = "vectors.i8";
const GRAPH: &str = "graph.links";
const BLOCKS: &str = "blocks.blake3";

/// Passages whose lines and vectors fill more than one block of 64 KiB.
fn rich(seed: u64, number: usize) -> Passage {
    Passage {
        text: format!("Text {number} of {seed}. ").repeat(80),
        metadata: json!({"number": number, "even": number.is_multiple_of(2)})
            .as_object()
            .cloned(),
        part: (number < 20).then(|| Part {
            document: format!("d{}", number / 5),
            start: 0,
            end: 9,
        }),
        ..passage(number)
    }
}

/// An index of two segments, one of them with a graph and with deleted passages, and a log that
/// holds changes.
fn make(dir: &Path, seed: u64) {
    let options = BuildOptions {
        exact_scan_limit: 30,
        ..options(DIMENSION)
    };
    let vectors = clustered(seed, 90, DIMENSION, 6);
    let upsert = |number: usize| Change::Upsert {
        passage: rich(seed, number),
        vectors: vec![vectors[number].clone()],
    };
    let mut builder = IndexBuilder::create(dir, options).unwrap();
    for (number, vector) in vectors.iter().enumerate().take(60) {
        builder.add(&rich(seed, number), &[vector]).unwrap();
    }
    builder.finish().unwrap();
    let index = Index::open_for_changes_with(dir, 20).unwrap();
    // Every block of the first segment keeps passages that are not deleted.
    index
        .apply((40..50).chain(60..70).map(upsert).collect())
        .unwrap();
    index.settle().unwrap();
    index.apply((70..75).map(upsert).collect()).unwrap();
    let deletions = [Change::Delete { id: "id-3".into() }, upsert(4)];
    index.apply(deletions.into()).unwrap();
    index
        .apply(vec![Change::DeleteDocument { id: "d2".into() }])
        .unwrap();
    let stats = index.stats();
    assert_eq!(stats.segments.len(), 2);
    assert!(matches!(stats.segments[0].search, SegmentSearch::Graph(_)));
    assert_eq!(stats.segments[1].search, SegmentSearch::Scan);
    assert_eq!((stats.in_log, stats.deleted), (6, 17));
}

/// Answers to everything that can be asked of an index, in order.
struct Answers {
    searches: Vec<Result<Vec<Hit>, IndexError>>,
    passages: Vec<Result<Option<Passage>, IndexError>>,
    all: Result<Content, IndexError>,
}

fn ask(index: &Index, queries: &[Vec<f32>]) -> Answers {
    let filter = json!({"type": "eq", "key": "even", "value": true});
    let kinds = [
        SearchOptions::new(3),
        SearchOptions {
            filter: Some(Filter::from_json(&filter).unwrap()),
            ..SearchOptions::new(4)
        },
        SearchOptions {
            min_score: Some(0.5),
            ..SearchOptions::new(40)
        },
        SearchOptions {
            exact: true,
            ..SearchOptions::new(5)
        },
    ];
    let search = |(query, options): (&Vec<f32>, &SearchOptions)| index.search(query, options);
    let pairs = queries
        .iter()
        .flat_map(|q| kinds.iter().map(move |k| (q, k)));
    Answers {
        searches: pairs.map(search).collect(),
        passages: [3, 4, 11, 30, 55, 62, 72, 99]
            .map(|number| index.get(&format!("id-{number}")))
            .into(),
        all: all(index),
    }
}

/// Files of an index by their paths in it, without the lock.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            for inner in names(&path) {
                let content = fs::read(path.join(&inner)).unwrap();
                files.insert(format!("{name}/{inner}"), content);
            }
        } else if name != "writer.lock" {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

/// Damages a file's content in one of several ways.
fn mutate(rng: &mut StdRng, content: &[u8]) -> Vec<u8> {
    let mut changed = content.to_vec();
    let length = content.len();
    let at = rng.random_range(0..length.max(1));
    let some = |rng: &mut StdRng| {
        (0..rng.random_range(1..200))
            .map(|_| rng.random())
            .collect()
    };
    match rng.random_range(0..10) {
        0..4 if length > 0 => changed[at] ^= 1 << rng.random_range(0..8),
        4 => changed.truncate(at),
        5 => changed.extend::<Vec<u8>>(some(rng)),
        6 => {
            let inserted: Vec<u8> = some(rng);
            changed.splice(at..at, inserted);
        }
        7 => {
            let end = length.min(at + rng.random_range(1..5000));
            changed[at..end].fill(0);
        }
        8 => {
            let end = length.min(at + rng.random_range(1..5000));
            changed.drain(at..end);
        }
        _ => {
            let end = length.min(at + rng.random_range(1..5000));
            let other = rng.random_range(0..length.max(1));
            let copied = content[at..end].to_vec();
            let to = length.min(other + copied.len());
            changed[other..to].copy_from_slice(&copied[..to - other]);
        }
    }
    changed
}

/// The files that a mutation changes, with their new content; `None` means that the file is
/// deleted.
type Mutation = BTreeMap<String, Option<Vec<u8>>>;

fn mutation(
    rng: &mut StdRng,
    own: &BTreeMap<String, Vec<u8>>,
    foreign: &BTreeMap<String, Vec<u8>>,
) -> Mutation {
    let any = |rng: &mut StdRng| {
        let at = rng.random_range(0..own.len());
        own.iter().nth(at).map(|(n, c)| (n.clone(), c)).unwrap()
    };
    let (name, content) = any(rng);
    let mut mutation = Mutation::new();
    match rng.random_range(0..20) {
        0 => _ = mutation.insert(name, None),
        // Files that change places; one in two places.
        1 => {
            let (other, other_content) = any(rng);
            mutation.insert(name, Some(other_content.clone()));
            mutation.insert(other, Some(content.clone()));
        }
        2 => {
            let (other, _) = any(rng);
            mutation.insert(other, Some(content.clone()));
        }
        // A file of the same kind in another index.
        3 => _ = mutation.insert(name.clone(), foreign.get(&name).cloned()),
        _ => _ = mutation.insert(name, Some(mutate(rng, content))),
    }
    mutation.retain(|name, content| content.as_ref() != own.get(name));
    mutation
}

fn put(dir: &Path, name: &str, content: Option<&Vec<u8>>) {
    match content {
        Some(content) => fs::write(dir.join(name), content).unwrap(),
        None => fs::remove_file(dir.join(name)).unwrap(),
    }
}

/// Whether a text names one of an index's files.
fn names_a_file(text: &str, files: &BTreeMap<String, Vec<u8>>) -> bool {
    files.keys().any(|file| text.contains(file.as_str()))
}

#[test]
fn a_damaged_index_gives_the_same_answers_or_an_error_that_names_the_file() {
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let (dir, foreign) = (home.path().join("index"), home.path().join("foreign"));
    make(&dir, 1);
    make(&foreign, 2);
    let (own, foreign) = (files(&dir), files(&foreign));
    assert!(
        own.keys().eq(foreign.keys()) && own.len() > 15,
        "{:?}",
        own.keys()
    );
    let queries = clustered(3, 3, DIMENSION, 6);
    let undamaged = ask(&Index::open(&dir).unwrap(), &queries);
    let began = Instant::now();
    let wanted = rounds("ONEGEN_DAMAGE_MUTATIONS", 3000);
    let (mut done, mut answered, mut refused_later) = (0, 0, 0);
    while done < wanted {
        let mutation = mutation(&mut rng, &own, &foreign);
        if mutation.is_empty() {
            continue;
        }
        done += 1;
        for (name, content) in &mutation {
            put(&dir, name, content.as_ref());
        }
        let what = || {
            let files: Vec<_> = mutation.keys().collect();
            format!("seed {seed}, mutation {done} of {files:?}")
        };
        // Reading all passages and vectors needs neither graph nor codes.
        let derived = |name: &String| {
            [GRAPH, BLOCKS, CODES]
                .iter()
                .any(|file| name.ends_with(file))
        };
        // Bytes after the last change in a log are what a crash leaves, and not part of the index.
        let torn = |(name, content): (&String, &Option<Vec<u8>>)| {
            let content = content.as_ref();
            name.ends_with(".log") && content.is_some_and(|c| c.starts_with(&own[name]))
        };
        let harmless = mutation.iter().all(torn);

        let refused = |error: &IndexError| {
            let text = error.to_string();
            assert!(names_a_file(&text, &own), "{}: {text}", what());
        };
        match Index::open(&dir) {
            Err(error) => refused(&error),
            Ok(index) => {
                let answers = ask(&index, &queries);
                for (now, before) in answers.searches.iter().zip(&undamaged.searches) {
                    match now {
                        Ok(hits) => assert!(hits == before.as_ref().unwrap(), "{}", what()),
                        Err(error) => refused(error),
                    }
                }
                for (now, before) in answers.passages.iter().zip(&undamaged.passages) {
                    match now {
                        Ok(passage) => assert!(passage == before.as_ref().unwrap(), "{}", what()),
                        Err(error) => refused(error),
                    }
                }
                match &answers.all {
                    Ok(all) => {
                        assert!(all == undamaged.all.as_ref().unwrap(), "{}", what());
                        assert!(harmless || mutation.keys().all(derived), "{}", what());
                        answered += 1;
                    }
                    Err(error) => {
                        refused(error);
                        refused_later += 1;
                    }
                }
            }
        }

        match verify(&dir) {
            Err(error) => refused(&error),
            Ok(verification) => {
                let findings = &verification.findings;
                assert_eq!(findings.is_empty(), harmless, "{}: {findings:?}", what());
                for finding in findings {
                    refused(&finding.error);
                    let made_of_others = finding.file.ends_with(GRAPH)
                        || finding.file.ends_with(CODES)
                            && matches!(finding.error, IndexError::ChecksumMismatch { .. });
                    assert_eq!(
                        finding.remedy == Remedy::Compact,
                        made_of_others,
                        "{}",
                        what()
                    );
                }
            }
        }
        for name in mutation.keys() {
            put(&dir, name, Some(&own[name]));
        }
    }
    println!(
        "{done} mutations in {:.1?}: {answered} answered as before, {refused_later} refused when read, the others when opened",
        began.elapsed()
    );
    assert!(answered > 0 && refused_later > 0);
    assert_whole(&dir);
    assert_eq!(files(&dir), own);
}

#[test]
fn a_damaged_or_missing_graph_is_built_again_from_the_vectors() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let queries = clustered(3, 3, DIMENSION, 6);
    for missing in [false, true] {
        make(&dir, 1);
        let before = ask(&Index::open(&dir).unwrap(), &queries);
        let name = files(&dir)
            .into_keys()
            .find(|n| n.ends_with(GRAPH))
            .unwrap();
        let mut content = fs::read(dir.join(&name)).unwrap();
        content[17] ^= 4;
        put(&dir, &name, Some(&content).filter(|_| !missing));
        let reader = Index::open(&dir).unwrap();
        let SegmentSearch::GraphDamaged { reason } = &reader.stats().segments[0].search else {
            panic!("{:?}", reader.stats());
        };
        assert!(reason.contains(GRAPH), "{reason}");
        let findings = verify(&dir).unwrap().findings;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].remedy, Remedy::Compact);

        let index = Index::open_for_changes(&dir).unwrap();
        index.compact().unwrap();
        assert!(matches!(
            index.stats().segments[0].search,
            SegmentSearch::Graph(_)
        ));
        drop(index);
        assert_whole(&dir);
        let after = ask(&Index::open(&dir).unwrap(), &queries);
        assert_eq!(after.all.unwrap(), before.all.unwrap());
        for (after, before) in after.searches.iter().zip(&before.searches) {
            assert_eq!(after.as_ref().unwrap(), before.as_ref().unwrap());
        }
    }
}

/// Changes the manifest and computes its checksum again.
fn reseal(dir: &Path, change: impl Fn(&mut Value)) {
    let path = dir.join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    manifest["checksum"] = "0".repeat(64).into();
    let checksum = blake3::hash(&serde_json::to_vec(&manifest).unwrap());
    manifest["checksum"] = checksum.to_hex().to_string().into();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn a_file_that_contradicts_another_is_refused_though_its_checksum_fits() {
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(3, 60, 8, 4);
    build(&dir, graph_options(8), &vectors);
    // Writes a file of at most one block and lists it in the manifest as it is.
    let plant = |file: &str, content: &[u8]| {
        fs::write(dir.join("segment-000001").join(file), content).unwrap();
        let blake3 = blake3::hash(content).to_hex().to_string();
        let record = json!({"length": content.len(), "blake3": blake3});
        reseal(&dir, |m| m["segments"][0]["files"][file] = record.clone());
    };
    let own = files(&dir);
    let in_segment = own.iter().filter_map(|(name, content)| {
        let file = name.strip_prefix("segment-000001/")?;
        (file != BLOCKS && !content.is_empty()).then_some((file, content))
    });
    for (file, content) in in_segment {
        assert!(content.len() < 60_000);
        for round in 0..60 {
            plant(file, &mutate(&mut rng, content));
            // Whatever was planted, nothing panics: it is refused here or there, or it is a valid
            // file.
            if let Ok(index) = Index::open(&dir) {
                for number in 0..60 {
                    let _ = index.get(&format!("id-{number}"));
                }
                let _ = index.search(&vectors[7], &SearchOptions::new(5));
                let _ = all(&index);
            }
            let _ = verify(&dir);
            // Changing it takes longer, so that is tried less often.
            if round % 6 == 0
                && let Ok(index) = Index::open_for_changes(&dir)
            {
                let delete = |n: usize| Change::Delete {
                    id: format!("id-{n}"),
                };
                let _ = index.apply((0..30).map(delete).collect());
                let _ = (index.passages(), index.compact());
                drop(index);
                fs::remove_dir_all(&dir).unwrap();
                fs::create_dir_all(dir.join("segment-000001")).unwrap();
            }
            own.iter()
                .for_each(|(name, content)| put(&dir, name, Some(content)));
        }
    }
    assert_whole(&dir);

    plant("passages.offsets", &[0; 61 * 8]);
    let error = Index::open(&dir).unwrap_err();
    assert!(
        matches!(&error, IndexError::Damaged { .. })
            && error.to_string().contains("passages.offsets"),
        "{error}"
    );
}

#[test]
fn counts_that_do_not_fit_the_files_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, graph_options(8), &clustered(3, 60, 8, 4));
    let manifest = fs::read(dir.join(MANIFEST_FILE)).unwrap();
    for (segment, field, value) in [
        (false, "dimension", 0),
        (false, "dimension", 16),
        (false, "dimension", u64::from(u32::MAX)),
        (true, "passages", 59),
        (true, "passages", u64::from(u32::MAX)),
        (true, "vectors", 0),
        (true, "vectors", 61),
    ] {
        reseal(&dir, |manifest| {
            if segment {
                manifest["segments"][0][field] = value.into()
            } else {
                manifest[field] = value.into()
            }
        });
        let refused = Index::open(&dir);
        assert!(
            matches!(refused, Err(IndexError::Damaged { .. })),
            "{field} {value}: {refused:?}"
        );
        fs::write(dir.join(MANIFEST_FILE), &manifest).unwrap();
    }
    // More links than a graph may have are refused before one is built.
    reseal(&dir, |manifest| manifest["graph"]["m"] = 100_000.into());
    let index = Index::open_for_changes(&dir).unwrap();
    let error = index.compact().unwrap_err();
    assert!(
        matches!(error, IndexError::Option { name: "m", .. }),
        "{error}"
    );
    assert_eq!(index.passages(), 60);
}

#[test]
fn another_format_version_is_refused_with_both_numbers() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(8), &clustered(3, 4, 8, 2));
    reseal(&dir, |manifest| manifest["format_version"] = 9.into());
    for error in [
        Index::open(&dir).unwrap_err(),
        Index::open_for_changes(&dir).unwrap_err(),
        verify(&dir).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                IndexError::Version {
                    expected: onegen_index::FORMAT_VERSION,
                    got: 9,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_an_index_is_said_not_to_be_one() {
    let home = tempfile::tempdir().unwrap();
    let open = |dir: &Path| {
        let error = Index::open_for_changes(dir).unwrap_err().to_string();
        assert_eq!(error, Index::open(dir).unwrap_err().to_string());
        error
    };
    assert!(open(&home.path().join("nowhere")).contains("does not exist"));
    assert!(open(home.path()).contains("has no manifest.json"));
    let manifest = home.path().join(MANIFEST_FILE);
    fs::write(&manifest, "{\"format\":\"npm\",\"format_version\":1}").unwrap();
    assert!(open(home.path()).contains("\"npm\""));
    fs::write(&manifest, "hello").unwrap();
    assert!(open(home.path()).contains(MANIFEST_FILE));
    assert_eq!(names(home.path()), [MANIFEST_FILE]);
}

#[test]
fn what_a_crash_left_goes_and_what_others_put_there_stays() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(8), &clustered(3, 4, 8, 2));
    fs::create_dir_all(dir.join("segment-000099/deeper")).unwrap();
    for left in ["changes-000098.log", "tombstones-1000000", "manifest.new"] {
        fs::write(dir.join(left), "half").unwrap();
    }
    Index::open(&dir).unwrap();
    assert_eq!(names(&dir).len(), 8);
    Index::open_for_changes(&dir).unwrap();
    assert_no_leftovers(&dir);

    let others = [
        "changes-000098.log.bak",
        "changes-to-do",
        "segment-7",
        "segment-notes.txt",
    ];
    for file in others {
        fs::write(dir.join(file), "mine").unwrap();
    }
    Index::open_for_changes(&dir).unwrap();
    assert!(others.iter().all(|file| dir.join(file).exists()));
}

#[test]
fn a_dropped_builder_leaves_nothing_and_the_old_index_stays() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let mut builder = IndexBuilder::create(&dir, options(8)).unwrap();
    builder.add(&passage(0), &[[1.0; 8]]).unwrap();
    assert_eq!(names(home.path()).len(), 1);
    drop(builder);
    assert_eq!(names(home.path()), [""; 0]);

    build(&dir, options(8), &clustered(3, 4, 8, 2));
    let mut builder = IndexBuilder::create(&dir, options(8)).unwrap();
    builder.add(&passage(0), &[[1.0; 8]]).unwrap();
    drop(builder);
    assert_eq!(names(home.path()), ["index"]);
    assert_eq!(Index::open(&dir).unwrap().passages(), 4);
}

#[test]
fn only_one_may_build_an_index_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let builder = IndexBuilder::create(&dir, options(8)).unwrap();
    for error in [
        IndexBuilder::create(&dir, options(8)).err().unwrap(),
        IndexBuilder::resume(&dir, options(8), "job").err().unwrap(),
    ] {
        assert!(matches!(error, IndexError::Locked { .. }), "{error}");
    }
    builder.finish().unwrap();
    assert_eq!(Index::open(&dir).unwrap().passages(), 0);
}

#[test]
fn a_build_that_was_refused_its_place_can_still_go_on() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(8), &clustered(3, 4, 8, 2));
    let open = Index::open_for_changes(&dir).unwrap();
    let resume = || IndexBuilder::resume(&dir, graph_options(8), "job").unwrap();
    let (mut builder, from) = resume();
    assert_eq!(from.records, 0);
    for number in 0..3 {
        builder.add(&passage(number), &[[1.0; 8]]).unwrap();
    }
    builder.save_progress(&ingested(3)).unwrap();
    let error = builder.finish().unwrap_err();
    assert!(matches!(error, IndexError::Locked { .. }), "{error}");
    assert_eq!(open.passages(), 4);
    drop(open);
    // The refused one had written everything that an index has.
    let (mut builder, from) = resume();
    assert_eq!((from.records, builder.passages()), (3, 3));
    builder.add(&passage(3), &[[1.0; 8]]).unwrap();
    builder.finish().unwrap();
    let index = Index::open_for_changes(&dir).unwrap();
    assert_eq!(index.passages(), 4);
    assert!(matches!(
        index.stats().segments[0].search,
        SegmentSearch::Graph(_)
    ));
    assert_whole(&dir);
    assert_no_leftovers(&dir);
    assert_eq!(names(home.path()), ["index"]);
}

#[test]
fn a_build_of_another_job_or_width_begins_anew() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    for (width, job) in [(4, "job"), (8, "another")] {
        let (mut builder, _) = IndexBuilder::resume(&dir, options(8), "job").unwrap();
        builder.add(&passage(0), &[[1.0; 8]]).unwrap();
        builder.save_progress(&ingested(1)).unwrap();
        drop(builder);
        let (builder, from) = IndexBuilder::resume(&dir, options(width), job).unwrap();
        assert_eq!((from.records, builder.passages()), (0, 0), "{width} {job}");
        drop(builder);
    }
}

#[test]
fn an_index_is_replaced_whole_while_it_is_searched() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let (old, new) = (clustered(3, 4, 8, 2), clustered(4, 9, 16, 2));
    build(&dir, options(8), &old);
    let before = Index::open(&dir).unwrap();
    build(&dir, graph_options(16), &new);
    let nearest = |index: &Index, query: &[f32]| {
        let hits = index.search(query, &SearchOptions::new(1)).unwrap();
        hits[0].passage.clone()
    };
    assert_eq!(nearest(&Index::open(&dir).unwrap(), &new[8]), passage(8));
    assert_eq!(nearest(&before, &old[3]), passage(3));
    assert_eq!(names(home.path()), ["index"]);
}

#[test]
fn what_is_not_an_index_is_never_replaced() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("photos");
    let refused = |dir: &Path| {
        assert!(matches!(
            IndexBuilder::create(dir, options(8)),
            Err(IndexError::NotReplaceable { .. })
        ))
    };
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("holiday.jpg"), "x").unwrap();
    refused(&dir);
    refused(&dir.join("holiday.jpg"));
    refused(Path::new("/"));
    assert_eq!(names(&dir), ["holiday.jpg"]);

    // A directory that appears there during the build is not replaced either.
    let late = home.path().join("late");
    let builder = IndexBuilder::create(&late, options(8)).unwrap();
    fs::create_dir(&late).unwrap();
    fs::write(late.join("holiday.jpg"), "x").unwrap();
    assert!(matches!(
        builder.finish(),
        Err(IndexError::NotReplaceable { .. })
    ));
    assert_eq!(names(home.path()), ["late", "photos"]);

    // An empty directory holds nothing to lose.
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    build(&empty, options(8), &clustered(3, 4, 8, 2));
    Index::open(&empty).unwrap();
}

#[test]
fn an_index_of_which_a_file_was_listed_under_a_wrong_number_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(8), &clustered(3, 4, 8, 2));
    // The next number is that of the log which is in use.
    reseal(&dir, |manifest| manifest["next_number"] = 1.into());
    let error = Index::open(&dir).unwrap_err().to_string();
    assert!(error.contains(MANIFEST_FILE), "{error}");
    assert_eq!(Manifest::read(&dir).unwrap().segments.len(), 1);
}
