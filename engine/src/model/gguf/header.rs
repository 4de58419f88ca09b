//! The header of a GGUF file: metadata, and where each tensor lies.
//!
//! candle has a reader too, but it trusts every length: a damaged file makes it allocate more memory than
//! the machine has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::value::Value;
use crate::error::LoadError;
use crate::model::ggml::GgmlType;
use crate::model::stored::damaged;

/// The most metadata and tensors that a header may hold, far above what real files hold.
const MOST_ENTRIES: u64 = 1 << 16;
/// The most elements of an array. Vocabularies and their merges stay below a million.
const MOST_ELEMENTS: u64 = 1 << 22;
/// The most bytes of a string.
const LONGEST_STRING: u64 = 1 << 24;
/// The most dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 4;

/// The part of the file before the tensors.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) path: Arc<Path>,
    pub(super) metadata: BTreeMap<String, MetadataEntry>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

#[derive(Debug)]
pub(super) struct MetadataEntry {
    pub(super) value: Value,
    /// blake3 of the bytes in which the value is stored.
    pub(super) digest: blake3::Hash,
    /// Where in the file its type and its value are.
    pub(super) span: Range<u64>,
}

/// One tensor, all of whose bytes are in the file.
#[derive(Debug)]
pub(super) struct TensorInfo {
    /// The type of its blocks, or the number of an unknown type.
    pub(super) element: Result<GgmlType, u32>,
    /// The sizes, rows first. The file has them in the opposite order.
    pub(super) shape: Vec<usize>,
    /// Where in the file it starts.
    pub(super) start: u64,
}

impl Header {
    /// Reads the header, but no tensor.
    ///
    /// # Errors
    /// The file cannot be read, is not a GGUF file or one of an old version, or is damaged or cut
    /// short.
    pub(super) fn read(path: &Path) -> Result<Self, LoadError> {
        let mut reader = Reader::open(path)?;
        reader.magic_and_version()?;
        let tensor_count = reader.count("tensors", MOST_ENTRIES)?;
        let entry_count = reader.count("metadata", MOST_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = reader.string()?;
            let start = reader.position();
            let kind = reader.u32()?;
            reader.hasher.reset();
            let value = reader.value(kind)?;
            let entry = MetadataEntry {
                value,
                digest: reader.hasher.finalize(),
                span: start..reader.position(),
            };
            if metadata.insert(key.clone(), entry).is_some() {
                return Err(damaged(path, format!("its metadata hold {key} twice")));
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.string()?;
            if tensors.insert(name.clone(), reader.tensor()?).is_some() {
                return Err(damaged(path, format!("it holds {name} twice")));
            }
        }
        let mut header = Self {
            path: path.into(),
            metadata,
            tensors,
        };
        header.place_tensors(reader.position(), reader.len)?;
        Ok(header)
    }

    /// Turns the tensors' offsets, which count from the first aligned byte after the header, into
    /// offsets in the file.
    fn place_tensors(&mut self, header_len: u64, file_len: u64) -> Result<(), LoadError> {
        let path = self.path.clone();
        let alignment = self.count("general.alignment")?.unwrap_or(32) as u64;
        if !alignment.is_power_of_two() {
            return Err(damaged(
                &path,
                format!("general.alignment is {alignment}, which is no power of two"),
            ));
        }
        let first = header_len.next_multiple_of(alignment);
        let mut ranges = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &mut self.tensors {
            let start = tensor.start.checked_add(first);
            let end = start
                .zip(tensor.bytes())
                .and_then(|(a, b)| a.checked_add(b));
            match (start, end) {
                (Some(start), Some(end)) if end <= file_len => {
                    tensor.start = start;
                    ranges.push((start, end, name));
                }
                _ => return Err(damaged(&path, format!("it is cut short in {name}"))),
            }
        }
        ranges.sort();
        let overlap = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1);
        match overlap {
            Some([(_, _, one), (_, _, other)]) => {
                Err(damaged(&path, format!("{one} and {other} overlap in it")))
            }
            _ => Ok(()),
        }
    }
}

impl TensorInfo {
    /// How many bytes the tensor takes, if its type is known; `None` if its numbers are not whole
    /// blocks.
    fn bytes(&self) -> Option<u64> {
        let Ok(element) = self.element else {
            return Some(0);
        };
        let blocks = self.shape.last().copied().unwrap_or(1);
        if !blocks.is_multiple_of(element.block_len()) {
            return None;
        }
        let elements = self
            .shape
            .iter()
            .try_fold(1usize, |a, b| a.checked_mul(*b))?;
        let bytes = (elements / element.block_len()).checked_mul(element.block_bytes())?;
        Some(bytes as u64)
    }
}

/// Reads the file without going beyond its end, and hashes what it reads.
struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    len: u64,
    left: u64,
    hasher: blake3::Hasher,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let len = file.metadata().map_err(unreadable)?.len();
        Ok(Self {
            path,
            file: BufReader::with_capacity(1 << 16, file),
            len,
            left: len,
            hasher: blake3::Hasher::new(),
        })
    }

    fn position(&self) -> u64 {
        self.len - self.left
    }

    fn damaged<T>(&self, reason: impl ToString) -> Result<T, LoadError> {
        Err(damaged(self.path, reason))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), LoadError> {
        self.file
            .read_exact(bytes)
            .map_err(|source| match source.kind() {
                ErrorKind::UnexpectedEof => damaged(self.path, "it is cut short in its header"),
                _ => LoadError::Read {
                    path: self.path.to_owned(),
                    source,
                },
            })?;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        self.hasher.update(bytes);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a count of things, each of which takes at least one byte of the file.
    fn count(&mut self, what: &str, most: u64) -> Result<u64, LoadError> {
        let count = self.u64()?;
        if count > most.min(self.left) {
            return self.damaged(format!("its header counts {count} {what}, which cannot be"));
        }
        Ok(count)
    }

    /// Reads a string. Invalid UTF-8 is replaced, because vocabularies of old converters contain
    /// it.
    fn string(&mut self) -> Result<String, LoadError> {
        let len = self.count("bytes of a string", LONGEST_STRING)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn magic_and_version(&mut self) -> Result<(), LoadError> {
        if &self.array()? != b"GGUF" {
            return self.damaged("it is no GGUF file, which starts with the letters GGUF");
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            version => Err(LoadError::Unsupported {
                path: self.path.to_owned(),
                what: format!("version {version} of GGUF"),
                remedy: "take a little-endian file of version 2 or 3".into(),
            }),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, LoadError> {
        const ARRAY: u32 = 9;
        if kind != ARRAY {
            return self.scalar(kind);
        }
        let kind = self.u32()?;
        let len = self.count("elements of an array", MOST_ELEMENTS)?;
        let mut elements = Vec::new();
        for _ in 0..len {
            elements.push(self.scalar(kind)?);
        }
        Ok(Value::List(elements))
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, LoadError> {
        Ok(match kind {
            0 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.string()?),
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            other => return self.damaged(format!("its metadata hold a value of type {other}")),
        })
    }

    /// Reads a tensor's description. Its start is still relative to the first tensor.
    fn tensor(&mut self) -> Result<TensorInfo, LoadError> {
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return self.damaged(format!("it holds a tensor of {dimensions} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let number = self.u32()?;
        Ok(TensorInfo {
            element: GgmlType::of_number(number).ok_or(number),
            shape,
            start: self.u64()?,
        })
    }
}
