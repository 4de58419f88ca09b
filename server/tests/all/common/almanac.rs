//! The shipped model over a few countries of its almanac.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use clap::Parser;
use onegen_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Server;

/// Where a server's collections and conversations are kept.
pub struct Countries {
    dir: TempDir,
}

/// A server and its files.
pub struct Almanac {
    server: Server,
    pub files: Countries,
}

impl Deref for Almanac {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Countries {
    pub fn write() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["Peru", "Chile", "Japan", "Kenya", "Norway"];
        let countries: String = names.map(|name| format!("{}\n", country(name))).concat();
        fs::write(dir.path().join("countries.jsonl"), countries).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self, more: &[&str]) -> Config {
        let model = models().join("almanac");
        let [model, data, corpus] = [model, self.path("data"), self.path("countries.jsonl")]
            .map(|p| p.display().to_string());
        let own = ["onegen-server", "--model", &model, "--data-dir", &data];
        let corpus = ["--corpus", &corpus];
        let corpus = if more.contains(&"--index") {
            &[][..]
        } else {
            &corpus
        };
        Config::try_parse_from(own.iter().chain(corpus).chain(more)).unwrap()
    }

    pub async fn serve(self) -> Almanac {
        Almanac {
            server: Server::start(&self.config(&[])).await,
            files: self,
        }
    }
}

impl Almanac {
    pub async fn start() -> Self {
        Countries::write().serve().await
    }

    /// Ends the server, as on SIGTERM, and starts another one over the same files.
    pub async fn restart(self) -> Self {
        self.restart_after(|| ()).await
    }

    /// The same, and calls `meanwhile` in between.
    pub async fn restart_after(self, meanwhile: impl FnOnce()) -> Self {
        let files = self.stop_serving().await;
        meanwhile();
        files.serve().await
    }

    /// Ends the server, and leaves its files.
    pub async fn stop_serving(self) -> Countries {
        let Self { mut server, files } = self;
        server.stop();
        server.stopped().await;
        files
    }

    /// Where its collection's index lies.
    pub fn index_dir(&self) -> PathBuf {
        let data = fs::read_dir(self.files.path("data")).unwrap();
        let mut indexes = data
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("manifest.json").is_file());
        indexes.next().unwrap()
    }
}

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

/// The almanac's passage on a country.
pub fn country(name: &str) -> Value {
    let almanac = fs::read_to_string(models().join("almanac/almanac.jsonl")).unwrap();
    let mut passages = almanac
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    passages
        .find(|passage| passage["title"] == name && passage["metadata"]["kind"] == "country")
        .unwrap()
}

/// An invented country, described as in the almanac.
pub fn zembla(capital: &str) -> Value {
    json!({
        "id": "country/zembla", "title": "Zembla", "url": "https://example.org/zembla",
        "text": format!(
            "Zembla is a country in Europe. Its capital is {capital}. Its largest city is {capital}. \
             Its currency is the krone. It borders Norway. It has a population of 2 million. \
             People speak Zemblan."
        ),
        "metadata": {"kind": "country"},
    })
}
