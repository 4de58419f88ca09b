//! Passages on disk: one JSON line each, found by number through their offsets and by id through a
//! sorted table.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::IndexError;
use crate::files::{self, MappedFile, TrackedFile};
use crate::manifest::{FileRecord, Manifest};

/// A piece of text that can be retrieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passage {
    /// Unique in its index.
    pub id: String,
    /// Title; may be empty.
    pub title: String,
    /// The text.
    pub text: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Anything else that is known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// The part of a longer document that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// Where a passage's text stands in the document that it was split from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The document's id.
    pub document: String,
    /// Its first character in the document's text, from 0; characters are Unicode code points.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
}

// 128 bits of blake3: two ids that share them will not be met.
type IdDigest = [u8; 16];
const ID_ROW: usize = size_of::<IdDigest>() + size_of::<u32>();

pub(crate) fn digest(id: &str) -> IdDigest {
    let mut digest = IdDigest::default();
    blake3::Hasher::new()
        .update(id.as_bytes())
        .finalize_xof()
        .fill(&mut digest);
    digest
}

/// Streams passages to disk. Only the digests of their ids stay in memory.
pub(crate) struct PassageWriter {
    lines: TrackedFile,
    offsets: TrackedFile,
    ids: TrackedFile,
    numbers: HashMap<IdDigest, u32>,
}

impl PassageWriter {
    pub(crate) fn create(dir: &Path) -> Result<Self, IndexError> {
        let mut offsets = TrackedFile::create(dir.join(files::OFFSETS))?;
        offsets.write(&0u64.to_le_bytes())?;
        Ok(Self {
            lines: TrackedFile::create(dir.join(files::PASSAGES))?,
            offsets,
            ids: TrackedFile::create(dir.join(files::IDS))?,
            numbers: HashMap::new(),
        })
    }

    /// Number of passages so far, which is the number of the next.
    pub(crate) fn count(&self) -> u32 {
        // `accepts` keeps the count within u32.
        self.numbers.len() as u32
    }

    /// Fails if the passage cannot be the next.
    pub(crate) fn accepts(&self, passage: &Passage) -> Result<(), IndexError> {
        if self.count() == u32::MAX {
            return Err(IndexError::TooLarge {
                what: "passages",
                limit: u32::MAX.into(),
            });
        }
        if self.numbers.contains_key(&digest(&passage.id)) {
            return Err(IndexError::DuplicateId {
                id: passage.id.clone(),
            });
        }
        Ok(())
    }

    /// Writes a passage that [`PassageWriter::accepts`].
    pub(crate) fn push(&mut self, passage: &Passage) -> Result<(), IndexError> {
        let number = self.count();
        self.numbers.insert(digest(&passage.id), number);
        let mut line = serde_json::to_vec(passage)
            .map_err(|e| IndexError::io("write", Path::new(files::PASSAGES))(e.into()))?;
        line.push(b'\n');
        self.lines.write(&line)?;
        self.offsets.write(&self.lines.length().to_le_bytes())
    }

    pub(crate) fn finish(mut self) -> Result<[(&'static str, FileRecord); 3], IndexError> {
        let mut rows: Vec<_> = self.numbers.into_iter().collect();
        rows.sort_unstable();
        for (digest, number) in rows {
            self.ids.write(&digest)?;
            self.ids.write(&number.to_le_bytes())?;
        }
        Ok([
            (files::PASSAGES, self.lines.finish()?),
            (files::OFFSETS, self.offsets.finish()?),
            (files::IDS, self.ids.finish()?),
        ])
    }
}

/// The passages of an open index.
pub(crate) struct PassageStore {
    lines: MappedFile,
    offsets: MappedFile,
    ids: MappedFile,
    count: u32,
}

impl PassageStore {
    pub(crate) fn open(dir: &Path, manifest: &Manifest) -> Result<Self, IndexError> {
        let store = Self {
            lines: MappedFile::verified(dir, files::PASSAGES, manifest)?,
            offsets: MappedFile::verified(dir, files::OFFSETS, manifest)?,
            ids: MappedFile::verified(dir, files::IDS, manifest)?,
            count: manifest.passages,
        };
        let count = u64::from(store.count);
        store.offsets.expect(count + 1, size_of::<u64>() as u64)?;
        store.ids.expect(count, ID_ROW as u64)?;
        let offsets = store.offsets.numbers::<u64>();
        let end = store.lines.bytes().len() as u64;
        if offsets.first() != Some(&0) || offsets.last() != Some(&end) || !offsets.is_sorted() {
            return Err(store
                .offsets
                .damaged("the offsets do not cover the passages"));
        }
        Ok(store)
    }

    pub(crate) fn get(&self, number: u32) -> Result<Passage, IndexError> {
        if number >= self.count {
            return Err(IndexError::NoSuchPassage {
                number,
                passages: self.count,
            });
        }
        let offsets = self.offsets.numbers::<u64>();
        let (from, to) = (offsets[number as usize], offsets[number as usize + 1]);
        serde_json::from_slice(&self.lines.bytes()[from as usize..to as usize]).map_err(|e| {
            self.lines
                .damaged(format!("passage {number} cannot be read: {e}"))
        })
    }

    pub(crate) fn find(&self, id: &str) -> Result<Option<(u32, Passage)>, IndexError> {
        let wanted = digest(id);
        let (rows, _) = self.ids.bytes().as_chunks::<ID_ROW>();
        let Ok(at) = rows.binary_search_by(|row| row[..wanted.len()].cmp(&wanted)) else {
            return Ok(None);
        };
        let [.., a, b, c, d] = rows[at];
        let number = u32::from_le_bytes([a, b, c, d]);
        let passage = self.get(number)?;
        Ok((passage.id == id).then_some((number, passage)))
    }
}
