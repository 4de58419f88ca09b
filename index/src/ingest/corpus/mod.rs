//! Reading a corpus: documents out of JSON lines, Parquet, or a folder of files.
//!
//! | corpus | record | document |
//! |---|---|---|
//! | `.jsonl`, `.ndjson`, either with `.gz` or `.zst` | a line | `{"id" or "_id", "title"?, "text", "url"?, "metadata"?}`, or OneGen's `{"uid", "messages"}` |
//! | `.parquet` | a row | the same names as columns; other columns become metadata |
//! | a directory | a text file, or a record of one of the files above | id: the path; title: front matter, first heading or file name; front matter becomes metadata |
//!
//! Everything is streamed: memory holds one record, and 192 bits for the id of each record that was
//! read. What is left out is counted with its reason ([`LeftOut`]).

mod compression;
mod document;
mod file;
mod folder;
mod identity;
mod jsonl;
mod left_out;
mod onegen_db;
mod record;
mod source;
mod table;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use self::file::Format;
use self::source::Source;
use crate::format::shard::Shard;
use crate::segment::passages::digest;

pub use self::document::Document;
pub use self::left_out::{LeftOut, LeftOutGroup};
pub use self::record::{Position, RecordError, RecordReason};
pub use self::source::CorpusError;

/// Reads documents one after another. A bad record is an item like any other, and reading continues
/// after it; only after [`RecordReason::Read`] are there no further items.
pub struct Corpus {
    source: Box<dyn Source>,
    total_bytes: u64,
    /// The part that is read, and where its records begin.
    shard: Option<Shard>,
    range: Range<u64>,
    identity: String,
    position: Option<Position>,
    records: u64,
    failed: bool,
    left_out: LeftOut,
    ids: Ids,
}

impl Corpus {
    /// Opens a corpus. The file's extension decides its kind; compression is detected from its
    /// first bytes.
    ///
    /// # Errors
    /// The corpus cannot be read, or is not of a known kind.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CorpusError> {
        let path = path.as_ref();
        let metadata = path.metadata().map_err(CorpusError::io(path))?;
        if metadata.is_dir() {
            let (folder, left_out) = folder::Folder::open(path)?;
            let (total_bytes, identity) = (folder.total_bytes(), folder.identity());
            return Ok(Self {
                left_out,
                ..Self::new(Box::new(folder), total_bytes, identity)
            });
        }
        let kind = |reason: String| CorpusError::Kind {
            path: path.to_path_buf(),
            reason,
        };
        if !metadata.is_file() {
            return Err(kind("it is neither a file nor a directory".into()));
        }
        let format = Format::from_path(path).map_err(kind)?;
        let mut file = File::open(path).map_err(CorpusError::io(path))?;
        let identity = identity::of_file(&mut file, &metadata).map_err(CorpusError::io(path))?;
        Ok(Self::new(
            format.open(path, file)?,
            metadata.len(),
            identity,
        ))
    }

    /// Reads JSON lines from anything. Such a corpus has no size and no identity.
    pub fn from_lines(input: impl Read + Send + 'static) -> Self {
        let lines = jsonl::Lines::new(BufReader::new(input));
        Self::new(Box::new(lines), 0, String::new())
    }

    fn new(source: Box<dyn Source>, total_bytes: u64, identity: String) -> Self {
        Self {
            source,
            total_bytes,
            shard: None,
            range: 0..u64::MAX,
            identity,
            position: None,
            records: 0,
            failed: false,
            left_out: LeftOut::default(),
            ids: Ids::default(),
        }
    }

    /// Gives only the records of one part. Those before it are read too, because a later record is bad if it has the
    /// id of an earlier one; all parts together thus give what the whole corpus gives, each record once and in its
    /// order.
    #[must_use]
    pub fn only(self, shard: Shard) -> Self {
        let identity = match self.identity.as_str() {
            "" => String::new(),
            identity => format!("{identity} {shard}"),
        };
        // What was left out when the corpus was opened is counted once.
        let left_out = match shard.number() {
            1 => self.left_out,
            _ => LeftOut::default(),
        };
        Self {
            shard: Some(shard),
            range: shard.range(self.total_bytes),
            identity,
            left_out,
            ..self
        }
    }

    /// The part that is read, if it is not the whole.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// The position of the last item.
    pub fn last_position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Records that were read or skipped so far, good and bad, also those before the part that is read: what [`Corpus::skip_records`] takes to
    /// go on from here.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// What is in none of the documents so far: bad records, files that are not read, columns of tables. It
    /// is whole when the last record was read.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// How much was read of [`Corpus::total_bytes`].
    pub fn bytes_read(&self) -> u64 {
        let Range { start, end } = self.range;
        self.source.bytes_read().min(end).saturating_sub(start)
    }

    /// Size in bytes, as it is stored, of the corpus or of the part that is read.
    pub fn total_bytes(&self) -> u64 {
        let Range { start, end } = self.range;
        self.total_bytes.min(end).saturating_sub(start)
    }

    /// A text (hexadecimal) by which a corpus that was read before is recognised. For a file it is
    /// made of its length, its modification time, and blake3 of its first and last MiB; for a
    /// folder, of the path, length and modification time of each file.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Continues where an interrupted run stopped: skips the first records, whose errors were
    /// reported by that run, and remembers their ids.
    ///
    /// # Errors
    /// The corpus has fewer records, or cannot be read that far.
    pub fn skip_records(&mut self, records: u64) -> Result<(), CorpusError> {
        let end = self.records + records;
        while self.records < end {
            match self.next() {
                Some(Err(error)) if self.failed => return Err(error.into()),
                Some(_) => {}
                // The part may be empty, and all before it read.
                None if self.records == end => {}
                None => {
                    return Err(CorpusError::EndsEarly {
                        records: self.records,
                        skip: end,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Where each id was read, by 128 bits of its blake3.
#[derive(Default)]
struct Ids {
    // The file, by its place in `files`, and the number of the record there.
    seen: HashMap<[u8; 16], u64>,
    // A position in each file that held a record.
    files: Vec<Position>,
}

impl Ids {
    /// Bits for the number of a record in its file. The other 24 are the file.
    const NUMBER_BITS: u32 = 40;

    /// Refuses a document whose id was there before.
    fn unique(
        &mut self,
        document: Document,
        position: &Position,
    ) -> Result<Document, RecordReason> {
        if !self
            .files
            .last()
            .is_some_and(|last| last.same_file(position))
        {
            self.files.push(position.clone());
        }
        let place = ((self.files.len() as u64 - 1) << Self::NUMBER_BITS) | position.number();
        match self.seen.entry(digest(&document.id)) {
            Entry::Vacant(free) => {
                free.insert(place);
                Ok(document)
            }
            Entry::Occupied(first) => {
                let file = (first.get() >> Self::NUMBER_BITS) as usize;
                let number = first.get() & ((1 << Self::NUMBER_BITS) - 1);
                Err(RecordReason::DuplicateId {
                    id: document.id,
                    first: self.files[file].at(number),
                })
            }
        }
    }
}

impl Iterator for Corpus {
    type Item = Result<Document, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let begins = self.source.bytes_read();
            if begins >= self.range.end {
                return None;
            }
            let is_before = begins < self.range.start;
            // What is left out before the part is counted where it belongs.
            let mut of_others = LeftOut::default();
            let left_out = if is_before {
                &mut of_others
            } else {
                &mut self.left_out
            };
            let (position, record) = self.source.next(left_out)?;
            let document = record.and_then(|document| self.ids.unique(document, &position));
            if let Err(reason) = &document {
                left_out.add(reason.short(), position.short());
            }
            self.failed = matches!(document, Err(RecordReason::Read(_)));
            self.records += u64::from(!self.failed);
            self.position = Some(position.clone());
            if !is_before || self.failed {
                return Some(document.map_err(|reason| RecordError { position, reason }));
            }
        }
        None
    }
}
