//! What was learnt, as others load it: a PEFT adapter.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{read_tensors, write_synced, write_tensors};
use super::load::Method;
use super::parameters::Parameters;

/// The adapter's weights in a directory.
const WEIGHTS: &str = "adapter_model.safetensors";
/// What they are.
const CONFIG: &str = "adapter_config.json";

/// Writes an adapter as PEFT does: low-rank matrices, and the rows of some tokens in place of the base's.
///
/// # Errors
/// The disk refused it, or the whole model is learnt, which is no adapter.
pub fn write(
    directory: &Path,
    parameters: &Parameters,
    method: &Method,
    control: &[u32],
    base_name: &str,
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
    // Whoever reads the directory meanwhile finds the old weights or the new ones.
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
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "trainable_token_indices": Value::Object(rows),
    });
    let json = serde_json::to_string_pretty(&config)? + "\n";
    write_synced(&directory.join(CONFIG), json.as_bytes())
}

/// Puts the small files of a model, which say how it is spoken to, beside its adapter, so that the adapter's
/// directory is a model that can be served, merged or exported.
///
/// # Errors
/// A file cannot be copied.
pub fn copy_small_files(model: &Path, directory: &Path) -> Result<()> {
    for name in [
        "onegen.json",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        let (from, to) = (model.join(name), directory.join(name));
        if from.is_file() && from != to {
            std::fs::copy(&from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
    }
    Ok(())
}

/// Takes the parameters of an adapter that was written before.
///
/// # Errors
/// The adapter cannot be read, or is of another shape.
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
