//! The tensors of a model, found by name and read a few rows at a time, so that loading holds no more in
//! memory than what it makes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{DType, Device, Tensor};
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
        Ok(Self {
            dir: dir.to_owned(),
            tensors,
        })
    }

    /// Tensors found already, under the names that transformers gives them.
    pub(super) fn of(path: &Path, tensors: HashMap<String, Stored>) -> Self {
        Self {
            dir: path.to_owned(),
            tensors,
        }
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
    pub(crate) fn weight_type(&self, name: &str) -> WeightType {
        match self.tensors.get(name).map(|stored| stored.element) {
            Some(GgmlDType::F16) => WeightType::F16,
            Some(GgmlDType::BF16) => WeightType::Bf16,
            Some(GgmlDType::F32) | None => WeightType::F32,
            Some(GgmlDType::Q4K) => WeightType::Q4_K,
            Some(_) => WeightType::Q8_0,
        }
    }

    /// How a tensor's numbers are stored.
    pub(crate) fn element(&self, name: &str) -> Option<GgmlDType> {
        Some(self.tensors.get(name)?.element)
    }

    /// A vector of `len` numbers.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.stored(name, &[len])?.numbers()
    }

    /// A whole tensor.
    pub(crate) fn tensor(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, LoadError> {
        let stored = self.find(name)?;
        Tensor::from_vec(stored.numbers()?, stored.shape.as_slice(), device)
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
        Rows::open(self.stored(name, &[rows, columns])?, columns)
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
        if stored.shape != shape {
            return Err(damaged(
                &stored.path,
                format!(
                    "{name} has the shape {:?}, where the configuration asks for {shape:?}",
                    stored.shape
                ),
            ));
        }
        Ok(stored)
    }
}

impl Stored {
    /// All numbers, row by row.
    pub(super) fn numbers(&self) -> Result<Vec<f32>, LoadError> {
        let total: usize = self.shape.iter().product();
        let columns = match self.paired {
            // The rows of a vector are its numbers.
            Some(_) if self.shape.len() == 1 => 1,
            _ => self.shape.last().copied().unwrap_or(1),
        };
        let mut numbers = vec![0.0; total];
        let mut rows = Rows::open(self, columns)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            rows.next_row(row)?;
        }
        Ok(numbers)
    }

    /// Where among the rows of its group row `at` stands.
    fn place(&self, at: usize) -> usize {
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

/// Reads a matrix row by row.
pub(crate) struct Rows<'a> {
    stored: &'a Stored,
    file: File,
    row_bytes: usize,
    /// Rows read ahead, how many, and how many of them were given out.
    ahead: Vec<u8>,
    held: usize,
    given: usize,
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
        let element = stored.element;
        Ok(Self {
            stored,
            file,
            row_bytes: columns / element.block_size() * element.type_size(),
            ahead: Vec::new(),
            held: 0,
            given: 0,
            rows_left: stored.shape.iter().product::<usize>() / columns.max(1),
        })
    }

    fn is_at_end(&self) -> bool {
        self.rows_left == 0 && self.given == self.held
    }

    /// The next row as it is stored: numbers, or ggml's blocks.
    pub(crate) fn next_bytes(&mut self) -> Result<&[u8], LoadError> {
        if self.given == self.held {
            self.read_ahead()?;
        }
        let at = self.stored.place(self.given) * self.row_bytes;
        self.given += 1;
        Ok(&self.ahead[at..at + self.row_bytes])
    }

    /// Whole groups of rows, so that each is where [`Stored::place`] says.
    fn read_ahead(&mut self) -> Result<(), LoadError> {
        let group = self.stored.paired.unwrap_or(1);
        let rows = (READ_BYTES / self.row_bytes.max(1)).max(1);
        self.held = rows.next_multiple_of(group).min(self.rows_left);
        self.given = 0;
        self.ahead.resize(self.held * self.row_bytes, 0);
        self.rows_left -= self.held;
        self.file
            .read_exact(&mut self.ahead)
            .map_err(|source| LoadError::Read {
                path: self.stored.path.to_path_buf(),
                source,
            })
    }

    /// Writes the next row to `row`, as numbers.
    pub(crate) fn next_row(&mut self, row: &mut [f32]) -> Result<(), LoadError> {
        let stored = self.stored;
        let bytes = self.next_bytes()?;
        let pairs = || bytes.as_chunks::<2>().0;
        match stored.element {
            GgmlDType::F32 => {
                for (number, bytes) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
            GgmlDType::F16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            GgmlDType::BF16 => {
                for (number, bytes) in row.iter_mut().zip(pairs()) {
                    *number = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            blocks => {
                let numbers = dequantise(blocks, bytes, row.len());
                row.copy_from_slice(&numbers.map_err(|source| LoadError::Weights {
                    dir: stored.path.to_path_buf(),
                    source,
                })?);
            }
        }
        Ok(())
    }
}

/// Matrices that are read as if they were one, below one another.
pub(crate) struct Stacked<'a> {
    matrices: Vec<Rows<'a>>,
    at: usize,
}

impl<'a> Stacked<'a> {
    /// Matrices of `columns` columns by name and rows, one or more.
    pub(crate) fn open(
        weights: &'a Checkpoint,
        stacked: &[(&str, usize)],
        columns: usize,
    ) -> Result<Self, LoadError> {
        let open = |(name, rows): &(&str, usize)| weights.matrix(name, *rows, columns);
        let matrices = stacked.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { matrices, at: 0 })
    }

    /// The matrix that holds the next row.
    pub(crate) fn rows(&mut self) -> &mut Rows<'a> {
        while self.at + 1 < self.matrices.len() && self.matrices[self.at].is_at_end() {
            self.at += 1;
        }
        &mut self.matrices[self.at]
    }
}

fn dequantise(
    element: GgmlDType,
    blocks: &[u8],
    columns: usize,
) -> Result<Vec<f32>, candle_core::Error> {
    qtensor_from_ggml(element, blocks, vec![columns], &Device::Cpu)?
        .dequantize(&Device::Cpu)?
        .to_vec1()
}
