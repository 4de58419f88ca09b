//! The file format (version 3, little-endian): metadata, the places of the tensors, and the
//! tensors.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use onegen_engine::GgufEntry;

use super::element::Element;
use super::metadata::ALIGNMENT;
use crate::convert::Source;

/// Metadata, in the order in which they are written.
#[derive(Default)]
pub(super) struct Entries(Vec<GgufEntry>);

/// The numbers of the metadata types that are written here.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

impl Entries {
    /// The metadata of another file.
    pub(super) fn copied(entries: Vec<GgufEntry>) -> Self {
        Self(entries)
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        self.0.iter().any(|entry| entry.key == key)
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.0.retain(|entry| entry.key != key);
    }

    pub(super) fn remove_all(&mut self, prefix: &str) {
        self.0.retain(|entry| !entry.key.starts_with(prefix));
    }

    pub(super) fn set_u32(&mut self, key: &str, value: u32) {
        self.set(key, U32, &value.to_le_bytes());
    }

    pub(super) fn set_f32(&mut self, key: &str, value: f32) {
        self.set(key, F32, &value.to_le_bytes());
    }

    pub(super) fn set_bool(&mut self, key: &str, value: bool) {
        self.set(key, BOOL, &[value.into()]);
    }

    pub(super) fn set_text(&mut self, key: &str, value: &str) {
        self.set(key, TEXT, &text(value));
    }

    pub(super) fn set_texts<'a>(&mut self, key: &str, values: impl Iterator<Item = &'a str>) {
        self.set_list(key, TEXT, values.map(text).collect());
    }

    pub(super) fn set_i32s(&mut self, key: &str, values: impl Iterator<Item = i32>) {
        let values = values.map(|value| value.to_le_bytes().to_vec());
        self.set_list(key, I32, values.collect());
    }

    fn set_list(&mut self, key: &str, kind: u32, values: Vec<Vec<u8>>) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.into_iter().flatten());
        self.set(key, LIST, &bytes);
    }

    fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        let bytes = [&kind.to_le_bytes(), value].concat();
        match self.0.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.bytes = bytes,
            None => self.0.push(GgufEntry {
                key: key.to_owned(),
                bytes,
            }),
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor to be written.
pub(super) struct PlannedTensor<'a> {
    pub(super) name: String,
    /// Rows first
    pub(super) shape: Vec<usize>,
    pub(super) element: Element,
    pub(super) source: Numbers<'a>,
}

/// Where a tensor's numbers come from.
pub(super) enum Numbers<'a> {
    Given(&'a [f32]),
    /// The tensor of that name, copied block by block
    Stored(String),
    /// The tensor of that name, read as numbers and encoded
    Rows(String),
}

/// Writes a file.
///
/// # Errors
/// A tensor cannot be read, or writing failed.
pub(super) fn write_file(
    path: &Path,
    entries: &Entries,
    tensors: &[PlannedTensor<'_>],
    source: &Source,
) -> Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((entries.0.len() as u64).to_le_bytes());
    for entry in &entries.0 {
        header.extend(text(&entry.key));
        header.extend(&entry.bytes);
    }
    let mut start = 0;
    for tensor in tensors {
        header.extend(text(&tensor.name));
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            header.extend((*size as u64).to_le_bytes());
        }
        header.extend(tensor.element.number().to_le_bytes());
        header.extend((start as u64).to_le_bytes());
        start += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&header)?;
    for tensor in tensors {
        let written = tensor.write(source, &mut file)?;
        ensure!(
            written == tensor.bytes(),
            "{} has {written} bytes where its shape asks for {}",
            tensor.name,
            tensor.bytes()
        );
        let padding = written.next_multiple_of(ALIGNMENT) - written;
        file.write_all(&[0; ALIGNMENT][..padding])?;
    }
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(())
}

impl PlannedTensor<'_> {
    fn bytes(&self) -> usize {
        self.element.bytes(self.shape.iter().product())
    }

    /// Writes all rows and says how many bytes they were.
    fn write(&self, source: &Source, to: &mut impl Write) -> Result<usize> {
        let name = match &self.source {
            Numbers::Given(numbers) => {
                let mut bytes = Vec::new();
                self.element.encode(numbers, &mut bytes)?;
                to.write_all(&bytes)?;
                return Ok(bytes.len());
            }
            Numbers::Stored(name) | Numbers::Rows(name) => name,
        };
        // If the numbers of a vector are reordered, each number counts as a row.
        let head = source.config().gguf_pairing(name);
        let row_bytes = match self.shape[..] {
            [_, columns] => self.element.bytes(columns),
            _ => self.element.bytes(1),
        };
        let mut order = HeadOrder::new(head, row_bytes);
        if let Numbers::Stored(_) = self.source {
            let mut rows = source.tensors.rows(name)?;
            while let Some(row) = rows.next_stored()? {
                order.bytes.extend_from_slice(row);
                order.write(to)?;
            }
        } else {
            let mut rows = source.tensors.rows(name)?;
            while let Some(row) = rows.next_row()? {
                self.element.encode(row, &mut order.bytes)?;
                order.write(to)?;
            }
        }
        ensure!(order.bytes.is_empty(), "{name} ends within a head");
        Ok(order.written)
    }
}

/// Reorders rows as llama.cpp does, one head at a time.
struct HeadOrder {
    /// Rows of a head; `None` where rows stay in order
    head: Option<usize>,
    row_bytes: usize,
    bytes: Vec<u8>,
    written: usize,
}

impl HeadOrder {
    fn new(head: Option<usize>, row_bytes: usize) -> Self {
        Self {
            head,
            row_bytes,
            bytes: Vec::new(),
            written: 0,
        }
    }

    /// Writes all complete heads.
    fn write(&mut self, to: &mut impl Write) -> Result<()> {
        let Some(head) = self.head else {
            to.write_all(&self.bytes)?;
            self.written += self.bytes.len();
            self.bytes.clear();
            return Ok(());
        };
        let whole = head * self.row_bytes;
        let heads = self.bytes.len() / whole * whole;
        for rows in self.bytes[..heads].chunks_exact(whole) {
            for pair in 0..head / 2 {
                for at in [pair, pair + head / 2] {
                    to.write_all(&rows[at * self.row_bytes..][..self.row_bytes])?;
                }
            }
        }
        self.written += heads;
        self.bytes.drain(..heads);
        Ok(())
    }
}
