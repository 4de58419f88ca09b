//! The order of a crate's rooms.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::imports::Imports;

/// For each crate its top-level modules, from the ground up.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Rooms(pub BTreeMap<String, Vec<String>>);

impl Rooms {
    /// Reads them from a TOML file.
    ///
    /// # Errors
    /// The file cannot be read or is no such table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))
    }
}

/// What is wrong with a crate's imports, a sentence each: imports that point up, and rooms that no order names.
/// `source` is the folder of the crate's root file; that file itself may import from everywhere.
pub fn faults(imports: &Imports, source: &Path, order: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, targets) in imports {
        let Some(room) = room_of(file, source) else {
            continue;
        };
        let Some(level) = order.iter().position(|name| *name == room) else {
            faults.push(format!(
                "{}: rooms.toml does not name {room}",
                file.display()
            ));
            continue;
        };
        for target in targets {
            let Some(other) = room_of(target, source) else {
                faults.push(format!("{} imports from the crate's root", file.display()));
                continue;
            };
            if (order.iter().position(|name| *name == other)).is_some_and(|at| at > level) {
                let (file, target) = (file.display(), target.display());
                faults.push(format!(
                    "{file} imports {target}: {other} stands above {room}"
                ));
            }
        }
    }
    faults
}

/// The top-level module that a file belongs to; none for the crate's root file.
fn room_of(file: &Path, source: &Path) -> Option<String> {
    let within = file.strip_prefix(source).ok()?;
    let mut parts = within.components();
    let first = parts.next()?.as_os_str().to_string_lossy().into_owned();
    if parts.next().is_some() {
        return Some(first);
    }
    let name = first.trim_end_matches(".rs");
    (name != "lib" && name != "main").then(|| name.to_owned())
}
