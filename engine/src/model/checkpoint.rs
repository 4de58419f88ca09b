//! The tensors of a model directory, found by name and read a few rows at a time, so that loading holds
//! no more in memory than what it makes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::WeightType;
use super::weights::{EMBEDDING, HEAD};
use crate::error::LoadError;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Where every tensor lies.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    tensors: HashMap<String, Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    path: Arc<Path>,
    element: Element,
    shape: Vec<usize>,
    start: u64,
}

/// How a number is stored.
#[derive(Debug, Clone, Copy)]
enum Element {
    F32,
    F16,
    Bf16,
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
        Ok(Self {
            dir: dir.to_owned(),
            tensors,
        })
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

    /// The type that keeps a tensor's numbers as they are stored.
    pub(crate) fn weight_type(&self, name: &str) -> WeightType {
        match self.tensors.get(name).map(|stored| stored.element) {
            Some(Element::F16) => WeightType::F16,
            Some(Element::Bf16) => WeightType::Bf16,
            Some(Element::F32) | None => WeightType::F32,
        }
    }

    /// A vector of `len` numbers.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let mut vector = vec![0.0; len];
        Rows::open(self.stored(name, &[len])?, len)?.next_row(&mut vector)?;
        Ok(vector)
    }

    /// The rows of a matrix, in order.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Rows<'_>, LoadError> {
        Rows::open(self.stored(name, &[rows, columns])?, columns)
    }

    /// That the tensor library could not take the weights in.
    pub(crate) fn not_taken_in(&self, source: candle_core::Error) -> LoadError {
        LoadError::Weights {
            dir: self.dir.clone(),
            source,
        }
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<&Stored, LoadError> {
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| LoadError::MissingTensor {
                dir: self.dir.clone(),
                name: name.to_owned(),
            })?;
        if stored.shape != shape {
            return Err(damaged(
                &stored.path,
                format!(
                    "{name} has the shape {:?}, where config.json asks for {shape:?}",
                    stored.shape
                ),
            ));
        }
        Ok(stored)
    }
}

fn damaged(path: &Path, reason: impl ToString) -> LoadError {
    LoadError::DamagedWeights {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn read_header(path: &Path, tensors: &mut HashMap<String, Stored>) -> Result<(), LoadError> {
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
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            // Of no concern where nobody asks for it.
            _ => continue,
        };
        let stored = Stored {
            path: shared.clone(),
            element,
            shape: info.shape.clone(),
            start: (header.len() + start) as u64,
        };
        tensors.insert(name, stored);
    }
    Ok(())
}

/// Reads a matrix row by row.
pub(crate) struct Rows<'a> {
    stored: &'a Stored,
    file: File,
    row_bytes: usize,
    /// Rows read ahead, and where the next one starts in them.
    ahead: Vec<u8>,
    at: usize,
    rows_left: usize,
}

impl<'a> Rows<'a> {
    fn open(stored: &'a Stored, columns: usize) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read {
            path: stored.path.to_path_buf(),
            source,
        };
        let mut file = File::open(&stored.path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(stored.start))
            .map_err(unreadable)?;
        let bytes = match stored.element {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        };
        Ok(Self {
            stored,
            file,
            row_bytes: columns * bytes,
            ahead: Vec::new(),
            at: 0,
            rows_left: stored.shape.iter().product::<usize>() / columns.max(1),
        })
    }

    /// Writes the next row to `row`.
    pub(crate) fn next_row(&mut self, row: &mut [f32]) -> Result<(), LoadError> {
        if self.at == self.ahead.len() {
            let rows = (READ_BYTES / self.row_bytes).clamp(1, self.rows_left.max(1));
            self.ahead.resize(rows * self.row_bytes, 0);
            self.at = 0;
            self.file
                .read_exact(&mut self.ahead)
                .map_err(|source| LoadError::Read {
                    path: self.stored.path.to_path_buf(),
                    source,
                })?;
            self.rows_left -= rows;
        }
        let bytes = &self.ahead[self.at..self.at + self.row_bytes];
        self.at += self.row_bytes;
        let pairs = || bytes.as_chunks::<2>().0;
        match self.stored.element {
            Element::F32 => {
                for (number, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
            Element::F16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Element::Bf16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
        }
        Ok(())
    }
}
