//! Odd but valid files of every format, in `corpora/`, and what must come of each: its documents, the records
//! that are bad, and everything that is left out. `corpora/make_tables.py` makes the tables.

#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use common::options;
use onegen_index::{
    Corpus, DocumentRules, Embedder, Filter, Index, IngestEvent, IngestOptions, LeftOut,
    SearchOptions, build_from_corpus,
};
use serde_json::{Value, json};

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora")
}

/// Everything that is read of a corpus, and everything that is not.
fn read(path: &Path) -> Value {
    let mut corpus = Corpus::open(path).unwrap();
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for record in corpus.by_ref() {
        match record {
            Ok(document) => documents.push(json!({
                "id": document.id,
                "title": document.title,
                "text": document.text,
                "url": document.url,
                "metadata": document.metadata,
            })),
            Err(error) => errors.push(error.to_string()),
        }
    }
    assert_eq!(corpus.bytes_read(), corpus.total_bytes());
    json!({"documents": documents, "errors": errors, "left_out": corpus.left_out()})
}

fn check(name: &str, path: &Path) {
    insta::with_settings!({sort_maps => true, prepend_module_to_snapshot => false, snapshot_path => "corpora/expected"}, {
        insta::assert_json_snapshot!(name, read(path));
    });
}

/// Embeds every text as the same vector: filters alone decide what is found.
struct Constant;

impl Embedder for Constant {
    type Error = Infallible;

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, Infallible> {
        Ok(vec![Ok(vec![1.0, 1.0]); texts.len()])
    }
}

/// An index of a corpus, and what was left out of it.
fn index_of(path: &Path, home: &Path) -> (Index, LeftOut) {
    let dir = home.join("index");
    let mut left_out = LeftOut::default();
    let rules = IngestOptions::new(DocumentRules::default());
    let corpus = Corpus::open(path).unwrap();
    build_from_corpus(corpus, &dir, options(2), rules, &Constant, |event| {
        if let IngestEvent::LeftOut(report) = event {
            left_out = report.clone();
        }
    })
    .unwrap();
    (Index::open(&dir).unwrap(), left_out)
}

/// Ids of the documents that a filter in its short form allows.
fn found(index: &Index, filter: &str) -> Vec<String> {
    let filter: Filter = filter.parse().unwrap();
    let search = SearchOptions {
        filter: Some(filter),
        ..SearchOptions::new(100)
    };
    let hits = index.search(&[1.0, 1.0], &search).unwrap();
    let mut ids: Vec<String> = hits.into_iter().map(|hit| hit.passage.id).collect();
    ids.sort();
    ids
}

#[test]
fn tables_are_read_as_their_writers_meant() {
    for entry in fs::read_dir(corpora().join("tables")).unwrap() {
        let path = entry.unwrap().path();
        check(path.file_stem().unwrap().to_str().unwrap(), &path);
    }
}

#[test]
fn lines_are_read_as_their_writers_meant() {
    check("lines", &corpora().join("lines/odd.jsonl"));
}

#[test]
fn a_folder_is_read_whole_and_what_is_left_out_is_counted() {
    check("folder", &corpora().join("folder"));
}

#[test]
fn every_value_of_a_table_is_found_by_its_filter() {
    let home = tempfile::tempdir().unwrap();
    let (index, left_out) = index_of(&corpora().join("tables/pandas.parquet"), home.path());
    assert!(left_out.is_empty(), "{left_out}");
    for (filter, ids) in [
        ("price=0.1", &["d0"][..]),
        ("price>2", &["d1"]),
        ("count=[1,3]", &["d0", "d2"]),
        ("when=2026-11-29T12:00:00", &["d2"]),
        ("when<\"1900\"", &["d3"]),
        ("zoned=2026-11-29T10:00:00Z", &["d0", "d1", "d2", "d3"]),
        ("kind=a", &["d0", "d2"]),
        ("tags=y", &["d0", "d3"]),
        ("big=9007199254740993", &["d1"]),
        ("big>9007199254740992", &["d1", "d2"]),
        ("big<-9007199254740992", &["d3"]),
    ] {
        assert_eq!(found(&index, filter), ids, "{filter}");
    }
    let (index, _) = index_of(&corpora().join("tables/every_type.parquet"), home.path());
    for filter in [
        "uint64=18446744073709551615",
        "above_2_53=9007199254740993",
        "float16=0.1",
        "float32=0.1",
        "float64=0.30000000000000004",
        "float64_exact=0.9823506400390133",
        "decimal=-1234.5",
        "decimal_integer=9007199254740993",
        "decimal_large=0.1",
        "date32=2026-11-29",
        "time_ns=00:00:01.000000001",
        "timestamp_ns>2026-11-29T12:30:15.123456788",
        "large_string=é",
        "list=b",
        "list_of_lists=3",
        "struct.deep.name=é",
        "structs.n=1",
        "map.k=1",
    ] {
        assert_eq!(found(&index, filter), ["d0"], "{filter}");
    }
}

#[test]
fn front_matter_is_found_by_its_filter() {
    let home = tempfile::tempdir().unwrap();
    let (index, _) = index_of(&corpora().join("folder"), home.path());
    for (filter, id) in [
        ("author=It's Quarn", "guide/yaml.md"),
        ("tags=river", "guide/yaml.md"),
        ("source.page>11", "guide/yaml.md"),
        ("date=2026-11-29T09:30:00+01:00", "guide/yaml.md"),
        ("params.rating=4.5", "guide/toml.md"),
        ("date=2026-11-29T09:30:00Z", "guide/toml.md"),
        ("weight=9007199254740993", "guide/json.md"),
        ("layout=page", "guide/page.html"),
        ("n=9007199254740993", "s0"),
    ] {
        assert_eq!(found(&index, filter), [id], "{filter}");
    }
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: PathBuf, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn ids(report: &Value) -> Vec<&str> {
        let documents = report["documents"].as_array().unwrap();
        documents
            .iter()
            .map(|one| one["id"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn a_mounted_config_map_is_read() {
        let home = tempfile::tempdir().unwrap();
        let map = home.path().join("cm");
        let version = "..2026_11_29_09_30_00.123456789";
        write(map.join(version).join("q.md"), "# Quarn\n\nText.");
        write(
            map.join(version).join("p.jsonl"),
            "{\"id\":\"p\",\"text\":\"P\"}",
        );
        symlink(version, map.join("..data")).unwrap();
        for name in ["q.md", "p.jsonl"] {
            symlink(format!("..data/{name}"), map.join(name)).unwrap();
        }
        let report = read(&map);
        assert_eq!(ids(&report), ["p", "q.md"]);
        assert_eq!(report["left_out"], json!([]));

        // A link to the folder, and one plain file beside the links.
        write(map.join("z.md"), "Plain.");
        symlink("cm", home.path().join("mounted")).unwrap();
        assert_eq!(
            ids(&read(&home.path().join("mounted"))),
            ["p", "q.md", "z.md"]
        );

        // Another version of the map is another corpus.
        let before = Corpus::open(&map).unwrap().identity().to_owned();
        write(map.join("..next/q.md"), "# Another\n\nText.");
        symlink("..next", map.join("..data_tmp")).unwrap();
        fs::rename(map.join("..data_tmp"), map.join("..data")).unwrap();
        let after = Corpus::open(&map).unwrap();
        assert_ne!(after.identity(), before);
        let report = read(&map);
        assert_eq!(ids(&report), ["q.md", "z.md"]);
        let left_out = json!([
            {"reason": "hidden", "count": 1, "names": [version]},
            {"reason": "linked to nothing", "count": 1, "names": ["p.jsonl"]},
        ]);
        assert_eq!(report["left_out"], left_out);
    }

    #[test]
    fn each_file_is_read_once_circles_end_and_what_is_outside_stays_outside() {
        let home = tempfile::tempdir().unwrap();
        let (dir, outside) = (home.path().join("docs"), home.path().join("outside"));
        write(outside.join("secret.md"), "Secret");
        write(dir.join("a/one.md"), "One");
        write(dir.join(".store/blob"), "Blob");
        write(dir.join(".store/deep/two.md"), "Two");
        write(dir.join("blob2"), "Blob of another name");
        for (to, link) in [
            ("a/one.md", "again.md"),
            ("a", "b"),
            ("..", "a/up"),
            (".", "self"),
            ("x", "y"),
            ("y", "x"),
            ("nowhere", "dangling.md"),
            (".store/blob", "blob.md"),
            ("blob2", "named.txt"),
            (".store/deep", "deep"),
            (".store", "store"),
            ("../outside", "out"),
            ("../outside/secret.md", "out.md"),
            ("/dev/null", "null.md"),
        ] {
            symlink(to, dir.join(link)).unwrap();
        }
        let report = read(&dir);
        assert_eq!(
            ids(&report),
            ["a/one.md", "blob.md", "deep/two.md", "named.txt"]
        );
        let left_out = json!([
            {
                "reason": "linked to a directory that is read elsewhere",
                "count": 3,
                "names": ["a/up", "b", "self"],
            },
            {"reason": "linked to a file that is read elsewhere", "count": 1, "names": ["again.md"]},
            {"reason": "linked to nothing", "count": 1, "names": ["dangling.md"]},
            {"reason": "linked out of the folder", "count": 3, "names": ["null.md", "out", "out.md"]},
            {"reason": "linked in a circle", "count": 2, "names": ["x", "y"]},
        ]);
        assert_eq!(report["left_out"], left_out);
    }

    #[test]
    fn a_folder_of_nothing_that_is_read_says_what_is_there() {
        let home = tempfile::tempdir().unwrap();
        write(home.path().join("a.png"), "A");
        symlink("nowhere", home.path().join("b.md")).unwrap();
        let error = Corpus::open(home.path()).err().unwrap().to_string();
        let said = "no text file is in it (left out: 1 of an ending that is not read: a.png; \
            1 linked to nothing: b.md)";
        assert!(error.contains(said), "{error}");
    }
}
