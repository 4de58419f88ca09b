//! A Hugging Face directory, which transformers, the engine and most converters load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::config_json::config_json;
use super::{NumberType, Source, new_name, shards, write_json};

/// The most bytes of a weight file.
const MOST_BYTES: u64 = 4_000_000_000;

/// Writes weights, configuration, tokenizer and templates into a new directory. Until everything is
/// written the directory is called `OUT.new`.
///
/// # Errors
/// `out` exists and is not empty, a part of the model cannot be read, or writing failed.
pub fn write(source: &Source, out: &Path, number: NumberType) -> Result<()> {
    let empty = fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    ensure!(
        empty,
        "{} is not empty: name a directory that is new",
        out.display()
    );
    let new = new_name(out)?;
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    write_into(source, &new, number, MOST_BYTES)?;
    fs::rename(&new, out).with_context(|| format!("cannot put {} in its place", new.display()))
}

fn write_into(
    source: &Source,
    directory: &Path,
    number: NumberType,
    most_bytes: u64,
) -> Result<()> {
    let config = config_json(source, number)?;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let tensors = &source.tensors;
    shards::write(directory, tensors.list()?, number, most_bytes, tensors)?;
    let tokenizer = &source.tokenizer;
    let files: [(&str, &[u8]); 2] = [
        ("tokenizer.json", &tokenizer.json),
        (
            "chat_template.jinja",
            tokenizer
                .chat_template
                .as_deref()
                .unwrap_or_default()
                .as_bytes(),
        ),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        if !text.is_empty() {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let mut tokenizer_config = source.json("tokenizer_config.json")?.unwrap_or(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": source.config().max_position_embeddings,
    }));
    if let Some(fields) = tokenizer_config.as_object_mut() {
        // The chat template is written to a file of its own.
        fields.remove("chat_template");
        let tokens = [
            ("bos_token", &tokenizer.bos_token),
            ("eos_token", &tokenizer.eos_token),
        ];
        for (key, token) in tokens {
            if let Some(token) = token {
                fields.insert(key.to_owned(), token.clone().into());
            }
        }
    }
    for (name, json) in [
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", source.generation_config_json()?),
        ("onegen.json", source.onegen_json()?),
    ] {
        write_json(&directory.join(name), &json)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onegen_engine::ModelFiles;

    #[test]
    fn shards_hold_the_tensors_of_one_file() -> Result<()> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac");
        let source = Source::open(&base, None)?;
        let directory = tempfile::tempdir()?;
        let (one, many) = (directory.path().join("one"), directory.path().join("many"));
        write_into(&source, &one, NumberType::F16, MOST_BYTES)?;
        write_into(&source, &many, NumberType::F16, 1_000_000)?;
        assert!(one.join("model.safetensors").is_file());
        assert!(many.join("model.safetensors.index.json").is_file());
        let mut shards = 0;
        for entry in fs::read_dir(&many)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                shards += 1;
                assert!(entry.metadata()?.len() < 1_100_000, "{:?}", entry.path());
            }
        }
        assert!(shards > 4, "{shards} files");
        let (one, many) = (
            ModelFiles::open(&one)?.tensors()?,
            ModelFiles::open(&many)?.tensors()?,
        );
        for (name, shape) in one.list()? {
            let [rows, columns] = match shape[..] {
                [rows, columns] => [rows, columns],
                _ => [1, shape[0]],
            };
            if shape.len() == 2 {
                let same =
                    one.matrix(&name, rows, columns)? == many.matrix(&name, rows, columns)?;
                assert!(same, "{name}");
            } else {
                assert_eq!(one.vector(&name, columns)?, many.vector(&name, columns)?);
            }
        }
        Ok(())
    }
}
