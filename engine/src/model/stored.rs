//! Where a tensor is in a file, as the headers say.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::ggml::GgmlType;
use crate::error::LoadError;

/// A tensor in a file.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    pub(super) path: Arc<Path>,
    /// The type of its numbers, stored in blocks of one or more.
    pub(super) element: GgmlType,
    pub(super) shape: Vec<usize>,
    /// Where in the file it starts.
    pub(super) start: u64,
    /// The rows of a head, if the two rows that rotate together are adjacent, as in llama.cpp,
    /// instead of half a head apart.
    pub(super) paired: Option<usize>,
}

impl StoredTensor {
    /// The width of the rows that are read.
    pub(super) fn columns(&self) -> usize {
        match self.paired {
            // Each number of a vector is a row.
            Some(_) if self.shape.len() == 1 => 1,
            _ => self.shape.last().copied().unwrap_or(1),
        }
    }

    /// The place where row `at` is stored among the rows of its group.
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

/// The tensors of a safetensors file; `None` for one whose numbers are of a type that is not read.
///
/// # Errors
/// It cannot be read, is damaged or cut short.
pub(super) fn read_header(path: &Path) -> Result<HashMap<String, Option<StoredTensor>>, LoadError> {
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
    let mut tensors = HashMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        if header.len() as u64 + end as u64 > file_len {
            return Err(damaged(path, format!("it is cut short in {name}")));
        }
        let element = match info.dtype {
            Dtype::F32 => Some(GgmlType::F32),
            Dtype::F16 => Some(GgmlType::F16),
            Dtype::BF16 => Some(GgmlType::BF16),
            // A tensor of another type is an error only if it is read.
            _ => None,
        };
        let stored = element.map(|element| StoredTensor {
            path: shared.clone(),
            element,
            shape: info.shape.clone(),
            start: (header.len() + start) as u64,
            paired: None,
        });
        tensors.insert(name, stored);
    }
    Ok(tensors)
}
