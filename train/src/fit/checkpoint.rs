//! Checkpoints, from which a run continues after any interruption.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::data::CoursePosition;
use super::loss::Queue;
use super::parameters::{AdamW, Parameters};

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// blake3 of the run's configuration and of the base's weights. A checkpoint of another run is refused
    pub run: String,
    /// Steps done
    pub step: usize,
    /// Where the next step's data begin
    pub place: CoursePosition,
    /// Tokens forwarded
    pub tokens: usize,
    /// Seconds spent
    pub seconds: f64,
    /// Keys of the queue's passages, the oldest first
    pub queue: Vec<u32>,
}

/// The checkpoint of a run, a directory. The newest complete one counts.
pub struct Checkpoint {
    directory: PathBuf,
}

const STATE: &str = "state.json";
const TENSORS: &str = "tensors.safetensors";

impl Checkpoint {
    /// The checkpoint in a directory, which is created.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn current(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    /// Writes a checkpoint beside the last one, and then replaces the last one by it. After a failure
    /// the last one is still there.
    ///
    /// # Errors
    /// Writing failed.
    pub fn save(
        &self,
        state: &State,
        parameters: &Parameters,
        optimiser: &AdamW,
        queue: &Queue,
    ) -> Result<()> {
        let next = self.directory.join("checkpoint.new");
        let old = self.directory.join("checkpoint.old");
        let failed = || {
            format!(
                "cannot write a checkpoint to {}; the last one is kept",
                self.directory.display()
            )
        };
        remove(&next).with_context(failed)?;
        fs::create_dir_all(&next).with_context(failed)?;
        let mut tensors: Vec<(String, Vec<usize>, &[f32])> = (parameters.iter())
            .map(|p| (p.name.clone(), vec![p.values.len()], p.values.as_slice()))
            .collect();
        for (name, values) in optimiser.state(parameters) {
            tensors.push((name, vec![values.len()], values));
        }
        for (at, (_, state)) in queue.iter().enumerate() {
            tensors.push((format!("queue.{at}"), vec![state.len()], state));
        }
        write_tensors(&next.join(TENSORS), &tensors, Dtype::F32).with_context(failed)?;
        let state = State {
            queue: queue.iter().map(|(key, _)| *key).collect(),
            ..state.clone()
        };
        let json = serde_json::to_vec_pretty(&state).with_context(failed)?;
        write_synced(&next.join(STATE), &json).with_context(failed)?;
        remove(&old).with_context(failed)?;
        if self.current().exists() {
            fs::rename(self.current(), &old).with_context(failed)?;
        }
        fs::rename(&next, self.current()).with_context(failed)?;
        remove(&old).with_context(failed)
    }

    /// Reads the checkpoint, if there is one: sets the parameters and returns the rest.
    ///
    /// # Errors
    /// It is damaged, or belongs to another run.
    pub fn resume(
        &self,
        run: &str,
        parameters: &mut Parameters,
    ) -> Result<Option<(State, AdamW, Queue)>> {
        let mut directory = self.current();
        if !directory.exists() {
            // The run was interrupted between the two renames.
            directory = self.directory.join("checkpoint.old");
        }
        let path = directory.join(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let damaged = || format!("the checkpoint in {} is damaged", directory.display());
        let state: State = serde_json::from_slice(&fs::read(&path).with_context(damaged)?)
            .with_context(damaged)?;
        if state.run != run {
            bail!(
                "{} holds the checkpoint of another run, of another configuration or base ({} where this is \
                 {run}). Name another directory with --work, or remove this one",
                self.directory.display(),
                state.run
            );
        }
        let mut tensors = read_tensors(&directory.join(TENSORS)).with_context(damaged)?;
        let mut queue = Queue::default();
        let queued = state.queue.iter().enumerate().map(|(at, key)| {
            let state = tensors.remove(&format!("queue.{at}")).unwrap_or_default();
            (*key, state)
        });
        let queued: Vec<_> = queued.collect();
        queue.push(queued, state.queue.len());
        parameters.assign(tensors.clone()).with_context(damaged)?;
        let optimiser = AdamW::restore(parameters, state.step, tensors).with_context(damaged)?;
        Ok(Some((state, optimiser, queue)))
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Writes a file and syncs it to the disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file =
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes tensors as `f32` or `f16`.
pub(super) fn write_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, &[f32])],
    dtype: Dtype,
) -> Result<()> {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(_, _, values)| match dtype {
            Dtype::F16 => (values.iter())
                .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                .collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
        .collect();
    let mut views = BTreeMap::new();
    for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
        views.insert(name, TensorView::new(dtype, shape.clone(), bytes)?);
    }
    write_synced(path, &safetensors::serialize(views, None)?)
}

/// Reads all tensors of a file as f32.
pub(super) fn read_tensors(path: &Path) -> Result<HashMap<String, Vec<f32>>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{} is damaged", path.display()))?;
    let read = tensors.iter().map(|(name, view)| {
        let values = match view.dtype() {
            Dtype::F32 => (view.data().chunks_exact(4))
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => (view.data().chunks_exact(2))
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            other => bail!("{name} in {} has the type {other:?}", path.display()),
        };
        Ok((name.to_owned(), values))
    });
    read.collect()
}
