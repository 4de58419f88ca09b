//! The models that come with the source, by their names.

use std::path::{Path, PathBuf};

/// The names of the models. The first is the default.
const SHIPPED: [&str; 3] = ["almanac", "linker", "smol"];

/// The path of a model: the given path or, if that does not exist and is the name of a shipped model,
/// that model's path. Without a path it is the almanac's.
pub fn find_model(given: Option<&Path>) -> PathBuf {
    let Some(given) = given else {
        return shipped(SHIPPED[0]);
    };
    let named = SHIPPED.iter().find(|name| given == Path::new(name));
    match named {
        Some(name) if !given.exists() => shipped(name),
        _ => given.to_owned(),
    }
}

/// Looks in the current directory, and otherwise in the source tree from which this program was
/// built.
fn shipped(name: &str) -> PathBuf {
    let here = Path::new("models").join(name);
    if here.is_dir() {
        return here;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    source.join("models").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_model_that_comes_with_the_source_and_a_path_is_a_path() {
        for name in SHIPPED {
            let found = find_model(Some(Path::new(name)));
            assert!(found.join("onegen.json").is_file(), "{}", found.display());
        }
        assert_eq!(find_model(None), find_model(Some(Path::new("almanac"))));
        for path in ["./smol", "models/smol", "a/smol", "other", "smol.gguf"] {
            assert_eq!(find_model(Some(Path::new(path))), Path::new(path));
        }
    }
}
