//! The engine's random model with a short context and one token a byte, so that tests can count tokens.

#[path = "../../../engine/tests/common/mod.rs"]
mod models;

use std::path::Path;

use models::{CONTROL, Family, SMALL, edit_json, write_byte_level};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Positions that the model can hold.
pub(crate) const CONTEXT: usize = 128;

/// Writes a model directory.
pub(crate) fn write_model(dir: &Path, seed: u64) {
    Family::Qwen3.write_into(dir, SMALL, seed);
    edit_json(dir, "config.json", |config| {
        config["max_position_embeddings"] = CONTEXT.into();
    });
    let bytes = ByteLevel::new(true, true, true);
    write_byte_level(&dir.join("tokenizer.json"), "", bytes, &CONTROL);
}
