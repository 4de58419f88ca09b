//! A damaged index is refused with the name of the file, and a target is never lost.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{build, clustered, graph_options, names, options, passage};
use onegen_index::{GraphState, Index, IndexBuilder, IndexError, MANIFEST_FILE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, random};

const GRAPH_FILE: &str = "graph.links";

/// Damages a file's content in one of several ways, always so that it differs.
fn damage(rng: &mut StdRng, content: &[u8]) -> Vec<u8> {
    let mut damaged = content.to_vec();
    let at = rng.random_range(0..content.len());
    match rng.random_range(0..5) {
        0 => damaged.truncate(at),
        1 => damaged[at] ^= 1 << rng.random_range(0..8),
        2 => damaged.insert(at, rng.random()),
        3 => damaged[at..]
            .iter_mut()
            .for_each(|byte| *byte = byte.wrapping_add(1)),
        _ => {
            damaged = (0..rng.random_range(0..2 * content.len()))
                .map(|_| rng.random())
                .collect()
        }
    }
    damaged
}

#[test]
fn a_damaged_file_is_refused_by_name_and_a_damaged_graph_is_rebuilt() {
    let seed: u64 = random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(3, 60, 8, 4);
    build(&dir, graph_options(8), &vectors);
    let whole = Index::open(&dir).unwrap().search(&vectors[7], 5).unwrap();
    let files = names(&dir);
    assert_eq!(files.len(), 9, "{files:?}");
    for round in 0..700 {
        let file = &files[round % files.len()];
        let path = dir.join(file);
        let content = fs::read(&path).unwrap();
        fs::write(&path, damage(&mut rng, &content)).unwrap();
        match Index::open(&dir) {
            Err(error) => {
                assert_ne!(file, GRAPH_FILE);
                assert!(
                    error.to_string().contains(file.as_str()),
                    "seed {seed}, round {round}, {file}: {error}"
                );
            }
            Ok(index) => {
                assert_eq!(file, GRAPH_FILE, "seed {seed}, round {round}");
                let GraphState::Rebuilt { reason } = index.graph_state() else {
                    panic!("seed {seed}, round {round}: {:?}", index.graph_state());
                };
                assert!(reason.contains(GRAPH_FILE), "{reason}");
                assert_eq!(index.search(&vectors[7], 5).unwrap(), whole);
            }
        }
        fs::write(&path, &content).unwrap();
    }
    assert_eq!(
        Index::open(&dir).unwrap().graph_state(),
        &GraphState::Loaded
    );
}

#[test]
fn a_missing_file_is_refused_by_name_and_a_missing_graph_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let vectors = clustered(3, 60, 8, 4);
    build(&dir, graph_options(8), &vectors);
    for file in names(&dir) {
        let aside = home.path().join("aside");
        fs::rename(dir.join(&file), &aside).unwrap();
        match Index::open(&dir) {
            Err(error) => assert!(error.to_string().contains(&file), "{file}: {error}"),
            Ok(index) => {
                assert_eq!(file, GRAPH_FILE);
                assert!(matches!(index.graph_state(), GraphState::Rebuilt { .. }));
            }
        }
        fs::rename(&aside, dir.join(&file)).unwrap();
    }
}

#[test]
fn a_file_of_another_index_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (dir, other) = (home.path().join("index"), home.path().join("other"));
    // The same shape, so that only the checksums tell them apart.
    build(&dir, options(8), &clustered(4, 60, 8, 4));
    let mut builder = IndexBuilder::create(&other, options(8)).unwrap();
    for (number, vector) in clustered(5, 60, 8, 4).iter().enumerate() {
        let mut passage = passage(number);
        passage.id = format!("jd-{}", 59 - number);
        builder.add(&passage, &[vector]).unwrap();
    }
    builder.finish().unwrap();
    for file in names(&dir) {
        let content = fs::read(dir.join(&file)).unwrap();
        let foreign = fs::read(other.join(&file)).unwrap();
        fs::write(dir.join(&file), &foreign).unwrap();
        if content == foreign {
            Index::open(&dir).unwrap();
        } else if file == MANIFEST_FILE {
            // The other's manifest is whole; what it does not fit is the first file that it is
            // compared with.
            assert!(matches!(
                Index::open(&dir),
                Err(IndexError::Length { .. } | IndexError::ChecksumMismatch { .. })
            ));
        } else {
            let error = Index::open(&dir).unwrap_err();
            assert!(error.to_string().contains(&file), "{file}: {error}");
        }
        fs::write(dir.join(&file), &content).unwrap();
    }
}

/// Changes the manifest as someone would who also knows how to seal it.
fn reseal(dir: &Path, change: impl Fn(&mut serde_json::Value)) {
    let path = dir.join(MANIFEST_FILE);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    manifest["checksum"] = "0".repeat(64).into();
    let checksum = blake3::hash(&serde_json::to_vec(&manifest).unwrap())
        .to_hex()
        .to_string();
    manifest["checksum"] = checksum.into();
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Writes a file and lists it in the manifest as it is.
fn plant(dir: &Path, file: &str, content: &[u8]) {
    fs::write(dir.join(file), content).unwrap();
    let record = serde_json::json!({"length": content.len(), "blake3": blake3::hash(content).to_hex().to_string()});
    reseal(dir, |manifest| manifest["files"][file] = record.clone());
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
    for file in names(&dir).iter().filter(|file| *file != MANIFEST_FILE) {
        let content = fs::read(dir.join(file)).unwrap();
        for _ in 0..60 {
            plant(&dir, file, &damage(&mut rng, &content));
            // Whatever was planted, nothing panics: it is refused here or there, or it is a valid
            // file.
            if let Ok(index) = Index::open(&dir) {
                for number in 0..60 {
                    let _ = index.passage(number);
                    let _ = index.get(&format!("id-{number}"));
                }
                let _ = index.search(&vectors[7], 5);
            }
        }
        plant(&dir, file, &content);
    }
    Index::open(&dir).unwrap();

    plant(&dir, "passages.offsets", &[0; 61 * 8]);
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
    for (field, value) in [
        ("dimension", 0),
        ("dimension", 16),
        ("dimension", u64::from(u32::MAX)),
        ("passages", 59),
        ("passages", u64::from(u32::MAX)),
        ("vectors", 0),
        ("vectors", 61),
    ] {
        reseal(&dir, |manifest| manifest[field] = value.into());
        assert!(
            matches!(Index::open(&dir), Err(IndexError::Damaged { .. })),
            "{field} {value}"
        );
        fs::write(dir.join(MANIFEST_FILE), &manifest).unwrap();
    }
    // More links than a graph may have are refused before one is built.
    reseal(&dir, |manifest| {
        manifest["graph"]["parameters"]["m"] = 100_000.into()
    });
    assert!(matches!(Index::open(&dir), Err(IndexError::Damaged { .. })));
}

#[test]
fn another_format_version_is_refused_with_both_numbers() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    build(&dir, options(8), &clustered(3, 4, 8, 2));
    reseal(&dir, |manifest| manifest["format_version"] = 9.into());
    let error = Index::open(&dir).unwrap_err();
    assert!(
        matches!(
            error,
            IndexError::Version {
                expected: 2,
                got: 9,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_is_not_an_index_is_said_not_to_be_one() {
    let home = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Index::open(dir).unwrap_err().to_string();
    assert!(open(&home.path().join("nowhere")).contains("does not exist"));
    assert!(open(home.path()).contains("has no manifest.json"));
    fs::write(
        home.path().join(MANIFEST_FILE),
        "{\"format\":\"npm\",\"format_version\":1}",
    )
    .unwrap();
    assert!(open(home.path()).contains("\"npm\""));
    fs::write(home.path().join(MANIFEST_FILE), "hello").unwrap();
    assert!(open(home.path()).contains(MANIFEST_FILE));
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
    assert_eq!(Index::open(&dir).unwrap().manifest().passages, 4);
}

#[test]
fn an_index_is_replaced_whole_while_it_is_searched() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let (old, new) = (clustered(3, 4, 8, 2), clustered(4, 9, 16, 2));
    build(&dir, options(8), &old);
    let before = Index::open(&dir).unwrap();
    build(&dir, graph_options(16), &new);
    assert_eq!(
        Index::open(&dir).unwrap().search(&new[8], 1).unwrap()[0].number,
        8
    );
    assert_eq!(before.search(&old[3], 1).unwrap()[0].passage, passage(3));
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

    // Nor is what appears there during the build.
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
