//! Passages on disk: one JSON line each, found by row through their offsets and by id through a sorted
//! table.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::IndexError;
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::rows::{RowFiles, RowStore, RowWriter};
use crate::format::tracked::{TrackedFile, WrittenFile};

/// One JSON object a line, in passage order.
pub(crate) const PASSAGES: &str = "passages.jsonl";
const LINES: RowFiles = RowFiles {
    bytes: PASSAGES,
    offsets: "passages.offsets",
};
/// Passages by id: 16 bytes of the id's blake3 and the passage's row (u32), sorted.
const IDS: &str = "passages.ids";

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

impl Passage {
    /// Id of the document that the passage is, or that it is a part of.
    pub fn document_id(&self) -> &str {
        match &self.part {
            Some(part) => &part.document,
            None => &self.id,
        }
    }
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

// 128 bits of blake3. A collision of two ids is too unlikely to occur.
pub(crate) type IdDigest = [u8; 16];
const ID_ROW: usize = size_of::<IdDigest>() + size_of::<u32>();

pub(crate) fn digest(id: &str) -> IdDigest {
    digest_of(id.as_bytes())
}

pub(crate) fn digest_of(bytes: &[u8]) -> IdDigest {
    let mut digest = IdDigest::default();
    blake3::Hasher::new()
        .update(bytes)
        .finalize_xof()
        .fill(&mut digest);
    digest
}

fn row_of(&[.., a, b, c, d]: &[u8; ID_ROW]) -> u32 {
    u32::from_le_bytes([a, b, c, d])
}

/// Streams passages to disk. Only the digests of their ids stay in memory.
pub(crate) struct PassageWriter {
    lines: RowWriter,
    ids: PathBuf,
    rows: HashMap<IdDigest, u32>,
}

impl PassageWriter {
    pub(crate) fn create(dir: &Path) -> Result<Self, IndexError> {
        Ok(Self {
            lines: RowWriter::create(dir, LINES)?,
            ids: dir.join(IDS),
            rows: HashMap::new(),
        })
    }

    /// Continues after the first `passages` of an interrupted writer, which take `length` bytes.
    /// `on_passage` is called for each of them.
    pub(crate) fn resume(
        dir: &Path,
        passages: u32,
        length: u64,
        mut on_passage: impl FnMut(u32, &Passage),
    ) -> Result<Self, IndexError> {
        let mut writer = Self {
            lines: RowWriter::resume(dir, LINES, passages, length)?,
            ids: dir.join(IDS),
            rows: HashMap::new(),
        };
        let path = writer.lines.path();
        let mut lines = BufReader::new(File::open(path).map_err(IndexError::io("open", path))?);
        let mut line = String::new();
        for row in 0..passages {
            line.clear();
            lines
                .read_line(&mut line)
                .map_err(IndexError::io("read", path))?;
            let passage: Passage = serde_json::from_str(&line).map_err(|e| {
                IndexError::damaged(path, format!("passage {row} cannot be read: {e}"))
            })?;
            on_passage(row, &passage);
            writer.rows.insert(digest(&passage.id), row);
        }
        Ok(writer)
    }

    /// Number of passages so far, which is the row of the next.
    pub(crate) fn count(&self) -> u32 {
        // `accepts` keeps the count within u32.
        self.rows.len() as u32
    }

    /// Bytes of the lines so far.
    pub(crate) fn length(&self) -> u64 {
        self.lines.length()
    }

    /// Fails if the passage cannot be the next.
    pub(crate) fn accepts(&self, passage: &Passage) -> Result<(), IndexError> {
        if self.count() == u32::MAX {
            return Err(IndexError::TooLarge {
                what: "passages",
                limit: u32::MAX.into(),
            });
        }
        if self.rows.contains_key(&digest(&passage.id)) {
            return Err(IndexError::DuplicateId {
                id: passage.id.clone(),
            });
        }
        Ok(())
    }

    /// Writes a passage. [`PassageWriter::accepts`] must have accepted it.
    pub(crate) fn push(&mut self, passage: &Passage) -> Result<(), IndexError> {
        let row = self.count();
        self.rows.insert(digest(&passage.id), row);
        let mut line = serde_json::to_vec(passage)
            .map_err(|e| IndexError::io("write", self.lines.path())(e.into()))?;
        line.push(b'\n');
        self.lines.push(&line)
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.lines.sync()
    }

    pub(crate) fn finish(self) -> Result<[(&'static str, WrittenFile); 3], IndexError> {
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_unstable();
        let mut ids = TrackedFile::create(self.ids)?;
        for (digest, row) in rows {
            ids.write(&digest)?;
            ids.write(&row.to_le_bytes())?;
        }
        let [lines, offsets] = self.lines.finish()?;
        Ok([lines, offsets, (IDS, ids.finish()?)])
    }
}

/// The passages of a segment.
pub(crate) struct PassageStore {
    lines: RowStore,
    ids: CheckedFile,
    count: u32,
}

impl PassageStore {
    pub(crate) fn open(files: &FileSet<'_>, count: u32) -> Result<Self, IndexError> {
        let store = Self {
            lines: RowStore::open(files, LINES, count)?,
            ids: files.map_verified(IDS)?,
            count,
        };
        store.ids.expect(u64::from(count), ID_ROW as u64)?;
        let (ids, _) = store.ids.numbers::<u8>().as_chunks::<ID_ROW>();
        if ids.iter().any(|id| row_of(id) >= count) {
            return Err(store.ids.damaged("it names a passage that does not exist"));
        }
        Ok(store)
    }

    /// The passage of a row.
    pub(crate) fn get(&self, row: u32) -> Result<Passage, IndexError> {
        let line = self.lines.get(row)?;
        serde_json::from_slice(line).map_err(|e| {
            self.lines
                .damaged(format!("passage {row} cannot be read: {e}"))
        })
    }

    /// The row of the passage with an id's digest.
    pub(crate) fn find(&self, wanted: &IdDigest) -> Option<u32> {
        let (rows, _) = self.ids.numbers::<u8>().as_chunks::<ID_ROW>();
        let at = rows
            .binary_search_by(|row| row[..wanted.len()].cmp(wanted))
            .ok()?;
        Some(row_of(&rows[at]))
    }

    /// The digests of all ids, ascending, each with its row.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (IdDigest, u32)> {
        let (ids, _) = self.ids.numbers::<u8>().as_chunks::<ID_ROW>();
        ids.iter().map(|id| {
            let mut digest = IdDigest::default();
            digest.copy_from_slice(&id[..size_of::<IdDigest>()]);
            (digest, row_of(id))
        })
    }

    /// Reads everything and says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.lines.verify()?;
        for row in 0..self.count {
            let passage = self.get(row)?;
            if self.find(&digest(&passage.id)) != Some(row) {
                return Err(self
                    .ids
                    .damaged(format!("passage {row}, {:?}, is not in it", passage.id)));
            }
        }
        Ok(())
    }
}
