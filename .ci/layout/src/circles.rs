//! Circles of imports.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::imports::Imports;

/// The groups of more than `most` files of which each reaches every other one by imports.
pub fn circles(imports: &Imports, most: usize) -> Vec<BTreeSet<PathBuf>> {
    let reached: HashMap<&Path, BTreeSet<&Path>> = (imports.keys())
        .map(|file| (file.as_path(), reachable(imports, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let circle: BTreeSet<PathBuf> = (others.iter())
            .filter(|other| reached.get(**other).is_some_and(|back| back.contains(file)))
            .map(|other| other.to_path_buf())
            .collect();
        if circle.len() > most {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reachable<'a>(imports: &'a Imports, file: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Path> = targets(imports, file).collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(targets(imports, file));
        }
    }
    reached
}

fn targets<'a>(imports: &'a Imports, file: &Path) -> impl Iterator<Item = &'a Path> {
    (imports.get(file).into_iter().flatten()).map(PathBuf::as_path)
}
