//! A model's tensors as mistral.rs's layers take them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::model::checkpoint::Checkpoint;
use crate::model::source::{ModelFiles, StoredWeights};
use crate::model::weights::{EMBEDDING, HEAD, names};

/// All tensors that the configuration calls for.
///
/// # Errors
/// One is missing, cannot be read or does not fit the device.
pub(super) fn open(
    files: &ModelFiles,
    dtype: DType,
    device: &Device,
) -> Result<ShardedVarBuilder, LoadError> {
    // Opened in any case: it checks that files, index and configuration agree.
    let checkpoint = files.checkpoint()?;
    match &files.stored {
        // Of files with an index, one may hold a stale copy of another's tensor.
        StoredWeights::Safetensors(dir, stored)
            if files.adapted.is_none() && stored.assigned.is_none() =>
        {
            map(dir, &stored.paths, &files.config, dtype, device)
        }
        _ => read(&checkpoint, &files.config, dtype, device),
    }
}

/// Maps the files into memory and checks that every tensor exists. mistral.rs would treat a missing
/// tensor as a layer that is filled in later.
fn map(
    dir: &Path,
    files: &[PathBuf],
    config: &ModelConfig,
    dtype: DType,
    device: &Device,
) -> Result<ShardedVarBuilder, LoadError> {
    // SAFETY: the files are mapped only while the tensors are copied out of them. As for every
    // program that maps its weights, no process may shorten them meanwhile.
    let weights =
        unsafe { ShardedSafeTensors::sharded(files, dtype, device, None, Arc::new(|_| true)) }
            .map_err(|source| LoadError::Weights {
                dir: dir.to_owned(),
                source,
            })?;
    let held = |name: &str| weights.contains_tensor(name);
    // A tied embedding may be stored as the head alone.
    let tied = |name: &str| config.tie_word_embeddings && name == EMBEDDING && held(HEAD);
    match names(config).into_iter().find(|n| !held(n) && !tied(n)) {
        Some(name) => Err(LoadError::MissingTensor {
            dir: dir.to_owned(),
            name,
        }),
        None => Ok(weights),
    }
}

/// Reads every tensor whole. This is for GGUF files, whose tensors are stored differently, for adapters, whose
/// merged tensors are in no file, and for files with an index.
fn read(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    dtype: DType,
    device: &Device,
) -> Result<ShardedVarBuilder, LoadError> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for name in names(config) {
        let stored = match name.as_str() {
            EMBEDDING => checkpoint.embedding_name(),
            other => other,
        };
        let tensor = tensor(checkpoint, stored, dtype, device)?;
        tensors.insert(name, tensor);
    }
    let tensors = Box::new(tensors);
    Ok(ShardedSafeTensors::wrap(tensors, dtype, device.clone()))
}

fn tensor(
    checkpoint: &Checkpoint,
    name: &str,
    dtype: DType,
    device: &Device,
) -> Result<Tensor, LoadError> {
    let shape = checkpoint.shape_of(name)?;
    let (mut rows, columns) = checkpoint.rows_of(name)?;
    let mut numbers = vec![0.0; shape.iter().product()];
    for row in numbers.chunks_exact_mut(columns.max(1)) {
        rows.next_row(row)?;
    }
    Tensor::from_vec(numbers, shape, device)
        .and_then(|tensor| tensor.to_dtype(dtype))
        .map_err(|source| checkpoint.not_taken_in(source))
}
