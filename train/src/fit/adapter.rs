//! Writes the result of a training as a PEFT adapter, which other programs can load.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use onegen_engine::PROJECTIONS;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{read_tensors, write_synced, write_tensors};
use super::load::Method;
use super::parameters::Parameters;

/// The adapter's weights in a directory.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The adapter's configuration.
const CONFIG: &str = "adapter_config.json";

/// Writes an adapter as PEFT does: low-rank matrices, and the rows of some tokens in place of the base's. The small
/// files in `model` are copied beside it, so that the directory can be served, merged and exported.
///
/// # Errors
/// Writing failed, or the whole model was trained, which cannot be written as an adapter.
pub fn write(
    directory: &Path,
    parameters: &Parameters,
    method: &Method,
    control: &[u32],
    base_name: &str,
    model: &Path,
) -> Result<()> {
    let Method::LowRank { rank, alpha } = method else {
        anyhow::bail!("a model that is learnt whole is no adapter");
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let tensors: Vec<_> = (parameters.iter())
        .map(|p| {
            let shape = vec![p.shape.0, p.shape.1];
            (p.name.clone(), shape, p.values.as_slice())
        })
        .collect();
    // A program that reads the directory meanwhile finds either the old weights or the new ones.
    let new = directory.join(format!("{WEIGHTS}.new"));
    write_tensors(&new, &tensors, Dtype::F16)?;
    let path = directory.join(WEIGHTS);
    std::fs::rename(&new, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    let mut rows = serde_json::Map::new();
    for module in ["embed_tokens", "lm_head"] {
        let held = |p: &super::parameters::Parameter| p.name.contains(&format!("{module}.token_"));
        if parameters.iter().any(held) {
            rows.insert(module.to_owned(), json!(control));
        }
    }
    // PEFT names a module by the end of its full name.
    let modules = PROJECTIONS.map(|name| name.rsplit('.').next().unwrap_or(name));
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "use_rslora": false,
        "use_dora": false,
        "target_modules": modules,
        "trainable_token_indices": Value::Object(rows),
    });
    let json = serde_json::to_string_pretty(&config)? + "\n";
    write_synced(&directory.join(CONFIG), json.as_bytes())?;
    copy_kept(&[model], directory)
}

/// Files of a Hugging Face directory that training leaves as they are.
const KEPT: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "onegen.json",
];

/// Writes a model that was trained whole as a Hugging Face directory: its weights in f32, and the small files
/// from `before` or otherwise from `base`.
///
/// # Errors
/// Writing failed, or the base is not a directory.
pub fn write_whole(
    directory: &Path,
    parameters: &Parameters,
    base: &Path,
    before: &Path,
) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let tensors: Vec<_> = (parameters.iter())
        .map(|p| {
            let shape = if p.vector {
                vec![p.shape.1]
            } else {
                vec![p.shape.0, p.shape.1]
            };
            (p.name.clone(), shape, p.values.as_slice())
        })
        .collect();
    let new = directory.join("model.safetensors.new");
    write_tensors(&new, &tensors, Dtype::F32)?;
    let path = directory.join("model.safetensors");
    std::fs::rename(&new, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    copy_kept(&[before, base], directory)
}

/// Copies the files that training leaves as they are, each from the first of `dirs` that has it.
fn copy_kept(dirs: &[&Path], directory: &Path) -> Result<()> {
    for name in KEPT {
        let mut held = dirs.iter().map(|dir| dir.join(name));
        if let Some(from) = held.find(|path| path.is_file()) {
            std::fs::copy(&from, directory.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    Ok(())
}

/// Reads the parameters of an adapter that was written before.
///
/// # Errors
/// The adapter cannot be read, or has another shape.
pub fn read(directory: &Path, parameters: &mut Parameters) -> Result<()> {
    let path = directory.join(WEIGHTS);
    ensure!(
        path.is_file(),
        "{} holds no adapter: {WEIGHTS} is missing",
        directory.display()
    );
    let other = || format!("the adapter in {} is of another shape", directory.display());
    parameters.assign(read_tensors(&path)?).with_context(other)
}
