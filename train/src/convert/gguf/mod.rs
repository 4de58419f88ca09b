//! Writes a GGUF file, which llama.cpp, programs built on it, and the engine can load.
//!
//! All metadata of a GGUF base are kept unchanged, except those that merging changes. `onegen.json` and
//! `generation_config.json`, for which the format has no place, are written beside the file.

mod element;
mod file;
mod metadata;
mod vocabulary;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use onegen_engine::{GgmlType, ModelConfig, RopeScaling};

use super::{Source, new_name, write_json};
use file::{Entries, PlannedTensor, write_file};

pub use element::Element;

/// Writes a model. Without `element` every tensor keeps its stored type, except those that an adapter changes:
/// these get at least 8 bits, because quantising them again to fewer would lose about as much as the adapter
/// adds. Until everything is written the file is called `OUT.new`.
///
/// # Errors
/// A part of the model cannot be read, GGUF cannot express the model, or writing failed.
pub fn write(source: &Source, out: &Path, element: Option<Element>) -> Result<()> {
    let entries = entries(source, out, element)?;
    let factors = rope_factors(source.config());
    let mut tensors = Vec::new();
    if let Some(factors) = &factors {
        tensors.push(PlannedTensor {
            name: "rope_freqs.weight".into(),
            shape: vec![factors.len()],
            element: Element::F32,
            source: file::Numbers::Given(factors),
        });
    }
    for (name, shape) in source.tensors.list()? {
        let theirs = source.config().gguf_name(&name);
        let theirs = theirs.with_context(|| format!("llama.cpp has no name for {name}"))?;
        let stored = source.tensors.stored_as(&name).and_then(Element::from_ggml);
        let element = chosen(&name, &shape, element, stored, source);
        tensors.push(PlannedTensor {
            name: theirs,
            element,
            source: if stored == Some(element) {
                file::Numbers::Stored(name)
            } else {
                file::Numbers::Rows(name)
            },
            shape,
        });
    }
    let new = new_name(out)?;
    write_file(&new, &entries, &tensors, source)
        .with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, out).with_context(|| format!("cannot put {} in its place", new.display()))?;
    write_json(&out.with_file_name("onegen.json"), &source.onegen_json()?)?;
    let generation = out.with_file_name("generation_config.json");
    write_json(&generation, &source.generation_config_json()?)
}

/// The type in which a tensor is written.
fn chosen(
    name: &str,
    shape: &[usize],
    asked: Option<Element>,
    stored: Option<Element>,
    source: &Source,
) -> Element {
    let [_, columns] = shape else {
        return Element::F32;
    };
    let table = name.contains("embed_tokens") || name.contains("lm_head");
    let element = match asked {
        // Embedding and head would lose most.
        Some(asked) if table => asked.finer(Element::Q8_0),
        Some(asked) => asked,
        None => match (stored, source.base_stored_as(name)) {
            (Some(stored), _) => stored,
            (None, Some(before)) => before.finer(Element::Q8_0),
            (None, None) => Element::F32,
        },
    };
    element.fitting(*columns)
}

/// The divisor of each rotary frequency, if the file has to list them.
fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::Default | RopeScaling::Linear { .. } => None,
        RopeScaling::Factors(factors) => Some(factors.to_vec()),
        RopeScaling::Llama3 { .. } => {
            let plain = ModelConfig {
                rope_scaling: RopeScaling::Default,
                ..config.clone()
            };
            let plain = plain.rotary_frequencies().into_iter();
            let scaled = config.rotary_frequencies();
            Some(
                plain
                    .zip(scaled)
                    .map(|(plain, scaled)| plain / scaled)
                    .collect(),
            )
        }
    }
}

/// All metadata.
fn entries(source: &Source, out: &Path, element: Option<Element>) -> Result<Entries> {
    let config = source.config();
    let has_tokenizer_file = source.files.find("tokenizer.json").is_some();
    let mut entries = match source.files.gguf_metadata()? {
        Some(base) => Entries::copied(base),
        None => metadata::entries(config, out)?,
    };
    let architecture = metadata::architecture(config);
    if matches!(config.rope_scaling, RopeScaling::Factors(_)) {
        // The listed factors of all frequencies already include a common factor.
        entries.remove(&format!("{architecture}.rope.scaling.factor"));
        entries.remove(&format!("{architecture}.rope.scale_linear"));
    }
    if entries.holds(&format!("{architecture}.vocab_size")) {
        let rows = config.vocab_size as u32;
        entries.set_u32(&format!("{architecture}.vocab_size"), rows);
    }
    if let Some(element) = element {
        entries.set_u32("general.file_type", element.file_type());
    } else if source.is_changed() {
        entries.remove("general.file_type");
    }
    entries.set_u32("general.quantization_version", 2);
    let alignment = metadata::ALIGNMENT as u32;
    if entries.holds("general.alignment") {
        entries.set_u32("general.alignment", alignment);
    }
    if has_tokenizer_file {
        vocabulary::set(&mut entries, source)?;
    }
    ensure!(
        entries.holds("tokenizer.ggml.tokens"),
        "the model has no vocabulary: neither a tokenizer.json nor tokenizer.ggml.tokens"
    );
    for (key, token) in [
        ("bos", &source.tokenizer.bos_token),
        ("eos", &source.tokenizer.eos_token),
    ] {
        let Some(token) = token else { continue };
        let Some(id) = source.tokens.id_of(token) else {
            bail!("the tokenizer has no token {token:?}, its {key}_token");
        };
        entries.set_u32(&format!("tokenizer.ggml.{key}_token_id"), id);
    }
    if let Some(template) = &source.tokenizer.chat_template {
        entries.set_text("tokenizer.chat_template", template);
    }
    Ok(entries)
}

impl Source {
    /// The base's type of a tensor, before any change by an adapter.
    fn base_stored_as(&self, name: &str) -> Option<Element> {
        self.tensors
            .base_stored_as(name)
            .and_then(Element::from_ggml)
    }

    /// Whether any tensor differs from the base's.
    fn is_changed(&self) -> bool {
        let changed = |(name, _): &(String, Vec<usize>)| self.tensors.stored_as(name).is_none();
        self.tensors.list().is_ok_and(|all| all.iter().any(changed))
    }
}

impl Element {
    fn from_ggml(stored: GgmlType) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.ggml() == stored)
    }
}
