//! The tensors of a model, found by name and read a few rows at a time, so that loading holds no more in
//! memory than what it makes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::WeightType;
use super::adapter::Change;
use super::rows::Rows;
use super::weights::{self, EMBEDDING, HEAD};
use crate::config::ModelConfig;
use crate::error::LoadError;

/// Where every tensor lies, and what an adapter makes of some of them.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    tensors: HashMap<String, Stored>,
    changes: HashMap<String, Change>,
}

/// A tensor in a file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) path: Arc<Path>,
    /// How its numbers are stored, in blocks of one or more.
    pub(super) element: GgmlDType,
    pub(super) shape: Vec<usize>,
    /// Where in the file it starts.
    pub(super) start: u64,
    /// Rows of a head in which the two rows that turn together stand side by side, as llama.cpp keeps
    /// them, instead of half a head apart.
    pub(super) paired: Option<usize>,
}

impl Checkpoint {
    /// Reads the headers of safetensors files.
    ///
    /// # Errors
    /// A file cannot be read, is damaged or cut short.
    pub(crate) fn open(dir: &Path, files: &[PathBuf]) -> Result<Self, LoadError> {
        let mut tensors = HashMap::new();
        for path in files {
            read_header(path, &mut tensors)?;
        }
        Ok(Self::of(dir, tensors))
    }

    /// Tensors found already, under the names that transformers gives them.
    pub(super) fn of(path: &Path, tensors: HashMap<String, Stored>) -> Self {
        Self {
            dir: path.to_owned(),
            tensors,
            changes: HashMap::new(),
        }
    }

    /// The same tensors, but some of them changed as they are read.
    pub(super) fn with_changes(self, changes: HashMap<String, Change>) -> Self {
        Self { changes, ..self }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The embedding's name: a tied one may be stored as the head alone.
    pub(crate) fn embedding_name(&self) -> &'static str {
        if self.contains(EMBEDDING) {
            EMBEDDING
        } else {
            HEAD
        }
    }

    /// The type that keeps a tensor's numbers as they are stored, or as nearly as there is one.
    ///
    /// A matrix that an adapter changes is no longer made of the levels that it is stored in: quantised to
    /// 4 bits once more, it would lose about as much as the adapter adds. It is kept in 8.
    pub(crate) fn weight_type(&self, name: &str) -> WeightType {
        let stored = match self.tensors.get(name).map(|stored| stored.element) {
            Some(GgmlDType::F16) => WeightType::F16,
            Some(GgmlDType::BF16) => WeightType::Bf16,
            Some(GgmlDType::F32) | None => WeightType::F32,
            Some(GgmlDType::Q4_0) => WeightType::Q4_0,
            Some(GgmlDType::Q4_1) => WeightType::Q4_1,
            Some(GgmlDType::Q4K) => WeightType::Q4_K,
            Some(_) => WeightType::Q8_0,
        };
        match self.changes.contains_key(name) {
            true => stored.min(WeightType::Q8_0),
            false => stored,
        }
    }

    /// How a tensor's numbers are stored, unless they are changed as they are read.
    pub(crate) fn element(&self, name: &str) -> Option<GgmlDType> {
        let unchanged = !self.changes.contains_key(name);
        let stored = self.tensors.get(name).filter(|_| unchanged);
        stored.map(|stored| stored.element)
    }

    /// How a tensor's numbers are stored, whatever an adapter makes of them.
    pub(crate) fn base_element(&self, name: &str) -> Option<GgmlDType> {
        self.tensors.get(name).map(|stored| stored.element)
    }

    /// A vector of `len` numbers.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.stored(name, &[len])?.numbers()
    }

    /// All tensors that the configuration calls for, whole, as candle's layers take them.
    ///
    /// # Errors
    /// One is missing, cannot be read or does not fit the device.
    pub(crate) fn var_builder(
        &self,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<ShardedVarBuilder, LoadError> {
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for name in weights::names(config) {
            let stored = match name.as_str() {
                EMBEDDING => self.embedding_name(),
                other => other,
            };
            let tensor = self.tensor(stored, dtype, device)?;
            tensors.insert(name, tensor);
        }
        let tensors = Box::new(tensors);
        Ok(ShardedSafeTensors::wrap(tensors, dtype, device.clone()))
    }

    /// A whole tensor.
    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor, LoadError> {
        let stored = self.find(name)?;
        let shape = self.shape(name, stored);
        let numbers = match shape[..] {
            [rows, columns] => {
                let mut numbers = vec![0.0; rows * columns];
                let mut matrix = self.matrix(name, rows, columns)?;
                for row in numbers.chunks_exact_mut(columns.max(1)) {
                    matrix.next_row(row)?;
                }
                numbers
            }
            _ => stored.numbers()?,
        };
        Tensor::from_vec(numbers, shape, device)
            .and_then(|tensor| tensor.to_dtype(dtype))
            .map_err(|source| self.not_taken_in(source))
    }

    /// The rows of a matrix, in order.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Rows<'_>, LoadError> {
        let stored = self.stored(name, &[rows, columns])?;
        Rows::open(stored, (rows, columns), self.changes.get(name))
    }

    /// The shape of a tensor, with what an adapter puts behind it.
    pub(super) fn shape_of(&self, name: &str) -> Result<Vec<usize>, LoadError> {
        Ok(self.shape(name, self.find(name)?))
    }

    /// All rows of a tensor, whatever its shape, and how wide they are; a vector is one row, but where its
    /// numbers have an order of their own they are rows themselves.
    pub(super) fn rows_of(&self, name: &str) -> Result<(Rows<'_>, usize), LoadError> {
        let stored = self.find(name)?;
        let shape = self.shape(name, stored);
        let columns = stored.columns();
        let rows = shape.iter().product::<usize>() / columns.max(1);
        let rows = Rows::open(stored, (rows, columns), self.changes.get(name))?;
        Ok((rows, columns))
    }

    /// That the tensor library could not take the weights in.
    pub(crate) fn not_taken_in(&self, source: candle_core::Error) -> LoadError {
        LoadError::Weights {
            dir: self.dir.clone(),
            source,
        }
    }

    fn find(&self, name: &str) -> Result<&Stored, LoadError> {
        self.tensors
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor {
                dir: self.dir.clone(),
                name: name.to_owned(),
            })
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<&Stored, LoadError> {
        let stored = self.find(name)?;
        let own = self.shape(name, stored);
        if own != shape {
            return Err(damaged(
                &stored.path,
                format!("{name} has the shape {own:?}, where the configuration asks for {shape:?}"),
            ));
        }
        Ok(stored)
    }

    /// The shape of a tensor: an adapter may put rows behind those that are stored.
    fn shape(&self, name: &str, stored: &Stored) -> Vec<usize> {
        let mut shape = stored.shape.clone();
        let change = self.changes.get(name);
        if let (Some(Change::Rows { ids, .. }), [rows, _]) = (change, &mut shape[..]) {
            let after_last = ids.iter().max().map_or(0, |id| id + 1);
            *rows = after_last.max(*rows);
        }
        shape
    }
}

impl Stored {
    /// How wide a row is that is read at once.
    fn columns(&self) -> usize {
        match self.paired {
            // The rows of a vector are its numbers.
            Some(_) if self.shape.len() == 1 => 1,
            _ => self.shape.last().copied().unwrap_or(1),
        }
    }

    /// All numbers, row by row.
    pub(super) fn numbers(&self) -> Result<Vec<f32>, LoadError> {
        let total: usize = self.shape.iter().product();
        let columns = self.columns();
        let mut numbers = vec![0.0; total];
        let mut rows = Rows::open(self, (total / columns.max(1), columns), None)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            rows.next_row(row)?;
        }
        Ok(numbers)
    }

    /// Where among the rows of its group row `at` stands.
    pub(super) fn place(&self, at: usize) -> usize {
        let Some(head) = self.paired else {
            return at;
        };
        let (half, within) = (head / 2, at % head);
        at - within + within % half * 2 + within / half
    }
}

pub(super) fn damaged(path: &Path, reason: impl ToString) -> LoadError {
    LoadError::DamagedWeights {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

pub(super) fn read_header(
    path: &Path,
    tensors: &mut HashMap<String, Stored>,
) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let file_len = file.metadata().map_err(unreadable)?.len();
    let mut header = vec![0; 8];
    file.read_exact(&mut header)
        .map_err(|_| damaged(path, "it is cut short"))?;
    let len = u64::from_le_bytes(header[..8].try_into().unwrap_or_default());
    if len > file_len {
        return Err(damaged(path, "it is cut short in its header"));
    }
    header.resize(8 + len as usize, 0);
    file.read_exact(&mut header[8..])
        .map_err(|_| damaged(path, "it is cut short in its header"))?;
    let metadata: Metadata =
        serde_json::from_slice(&header[8..]).map_err(|error| damaged(path, error))?;
    let shared: Arc<Path> = path.into();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        if header.len() as u64 + end as u64 > file_len {
            return Err(damaged(path, format!("it is cut short in {name}")));
        }
        let element = match info.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            // Of no concern where nobody asks for it.
            _ => continue,
        };
        let stored = Stored {
            path: shared.clone(),
            element,
            shape: info.shape.clone(),
            start: (header.len() + start) as u64,
            paired: None,
        };
        tensors.insert(name, stored);
    }
    Ok(())
}
