//! The configurations that are shipped can be read, and every key that one may have is in their README.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use onegen_train::fit::config::FitConfig;

fn configs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

#[test]
fn every_configuration_can_be_read() {
    let mut read = 0;
    for entry in fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            FitConfig::load(&path).unwrap_or_else(|error| panic!("{error:#}"));
            read += 1;
        }
    }
    assert!(read >= 5, "{read} configurations");
}

#[test]
fn the_readme_names_every_key_that_a_configuration_has() {
    let readme = fs::read_to_string(configs().join("README.md")).unwrap();
    for entry in fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter(|line| !line.starts_with(['#', '"', '[']))
        {
            if let Some((key, _)) = line.split_once(" = ") {
                let named =
                    readme.contains(&format!(".{key}`")) || readme.contains(&format!("`{key}`"));
                assert!(
                    named,
                    "{} has the key {key}, which the README lacks",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn runs_of_before_have_the_same_identity() {
    // A checkpoint identifies its configuration by the serialised text, so newer keys must not be serialised
    // if they are not set.
    let config = FitConfig::load(&configs().join("smol.toml")).unwrap();
    let text = toml::to_string(&config).unwrap();
    for later in ["passes", "continue", "others"] {
        assert!(!text.contains(later), "{later} shows");
    }
}
