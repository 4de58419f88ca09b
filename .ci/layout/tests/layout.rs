//! The layout of this project's source, and that the check finds what it looks for.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use onegen_layout::circles::circles;
use onegen_layout::imports::imports;
use onegen_layout::length::lines_of_code;
use onegen_layout::module::Modules;
use onegen_layout::rooms::{Rooms, faults};

/// Files in a circle of imports, at most.
const CIRCLE: usize = 2;
/// Lines of code of a file, at most.
const LINES: usize = 600;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn rooms() -> Rooms {
    Rooms::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("rooms.toml")).unwrap()
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn relative(path: &Path) -> String {
    path.strip_prefix(project())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[test]
fn every_import_points_down() {
    let mut found = Vec::new();
    for (name, order) in rooms().0 {
        let source = project().join(name).join("src");
        let modules = Modules::read(&source.join("lib.rs")).unwrap();
        found.extend(faults(&imports(&modules), &source, &order));
    }
    assert_none(&found);
}

#[test]
fn no_circle_of_imports_holds_more_than_two_files() {
    let mut found = Vec::new();
    for name in rooms().0.into_keys() {
        let modules = Modules::read(&project().join(name).join("src/lib.rs")).unwrap();
        for circle in circles(&imports(&modules), CIRCLE) {
            let files: Vec<String> = circle.iter().map(|file| relative(file)).collect();
            found.push(format!("{} files: {}", files.len(), files.join(" ")));
        }
    }
    assert_none(&found);
}

#[test]
fn no_file_is_longer_than_six_hundred_lines_of_code() {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = (rooms().0.keys())
        .map(|name| project().join(name).join("src"))
        .collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = lines_of_code(&std::fs::read_to_string(&path).unwrap());
                if lines > LINES {
                    found.push(format!("{}: {lines} lines of code", relative(&path)));
                }
            }
        }
    }
    assert_none(&found);
}

/// What a document names in backticks as a file or folder of this project: a name with a known ending, or one below
/// a folder of the top level.
fn named_paths(text: &str, top: &[String]) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|name| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let below_top = name
            .split_once('/')
            .is_some_and(|(first, _)| top.iter().any(|name| name == first));
        name.chars().all(plain) && !name.starts_with('/') && (name.ends_with(".rs") || below_top)
    });
    paths.map(str::to_owned).collect()
}

/// The paths of all files and folders below a folder, hidden ones and build outputs left out.
fn files_and_folders(root: &Path) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name == "target" || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn documents_name_only_files_that_are_there() {
    let there = files_and_folders(&project());
    let tops: HashSet<String> = (there.iter())
        .filter_map(|path| Some(path.split_once('/')?.0.to_owned()))
        .collect();
    let tops: Vec<String> = tops.into_iter().collect();
    let is_there = |name: &str| {
        let name = name.trim_end_matches('/');
        let below = format!("/{name}");
        there.contains(name)
            || (there.iter())
                .any(|path| path.ends_with(&below) || path.ends_with(&format!("{below}.rs")))
    };
    let mut names = 0;
    let mut found = Vec::new();
    for document in [
        "ARCHITECTURE.md",
        "README.md",
        "deploy/README.md",
        "train/configs/README.md",
    ] {
        let text = std::fs::read_to_string(project().join(document)).unwrap();
        let named = named_paths(&text, &tops);
        names += named.len();
        let missing = named.into_iter().filter(|name| !is_there(name));
        found.extend(missing.map(|name| format!("{document} names {name}")));
    }
    assert_none(&found);
    assert!(names > 50, "only {names} names were recognised");
}

/// A crate of files with these texts.
fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Modules) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let modules = Modules::read(&directory.path().join("lib.rs")).unwrap();
    (directory, modules)
}

#[test]
fn an_import_that_points_up_is_found_through_a_re_export_and_in_code() {
    let (directory, modules) = written(&[
        ("lib.rs", "mod ground; mod roof; mod walls;"),
        ("ground.rs", "use crate::walls::Brick; struct Stone(Brick);"),
        ("walls/mod.rs", "mod brick; pub use brick::Brick;"),
        (
            "walls/brick.rs",
            "pub struct Brick; fn height() { crate::roof::height() }",
        ),
        (
            "roof.rs",
            "use crate::{ground::Stone, walls}; pub fn height() {}",
        ),
    ]);
    let order = ["ground", "walls", "roof"].map(str::to_owned);
    let found = faults(&imports(&modules), directory.path(), &order);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("walls/brick.rs: walls stands above ground"));
    assert!(found[1].ends_with("roof.rs: roof stands above walls"));
    let found = faults(&imports(&modules), directory.path(), &order[..2]);
    assert!(
        found
            .iter()
            .any(|fault| fault.ends_with("does not name roof")),
        "{found:?}"
    );
}

#[test]
fn a_circle_of_three_files_is_found_and_one_of_two_is_not() {
    let (_directory, modules) = written(&[
        (
            "lib.rs",
            "mod a; mod b; mod c; mod d; #[cfg(test)] mod tests { use super::a; }",
        ),
        ("a.rs", "use crate::b; pub struct Item;"),
        ("b.rs", "use super::c::{self, Thing};"),
        (
            "c.rs",
            "pub struct Thing; fn back() -> crate::a::Item { todo!() }",
        ),
        ("d.rs", "use crate::a;"),
    ]);
    let found = circles(&imports(&modules), CIRCLE);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].len(), 3);
    assert!(circles(&imports(&modules), 3).is_empty());
}

#[test]
fn comments_empty_lines_and_tests_are_no_code() {
    let text = "//! What it is.\n\nfn a() {\n    // Why.\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
    assert_eq!(lines_of_code(text), 3);
}
