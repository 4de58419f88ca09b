//! Reading a corpus: documents out of JSON lines, Parquet, or a folder of text files.
//!
//! | corpus | record | document |
//! |---|---|---|
//! | `.jsonl`, `.ndjson`, either with `.gz` | a line | `{"id" or "_id", "title"?, "text", "url"?, "metadata"?}`, or OneGen's `{"uid", "messages"}` |
//! | `.parquet` | a row | the same names as columns; other columns of strings, numbers and booleans become metadata |
//! | a directory | a `.md`, `.markdown` or `.txt` file | id: the path; title: front matter, first heading or file name |
//!
//! Everything is streamed: memory holds one record, and 128 bits of the id of each record that was
//! read.

mod document;
mod folder;
mod gzip;
mod identity;
mod jsonl;
mod onegen_db;
mod parquet;
mod record;
mod source;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use self::source::Source;
use crate::segment::passages::digest;

pub use self::document::Document;
pub use self::record::{Position, RecordError, RecordReason};
pub use self::source::CorpusError;

/// Reads documents one after another. A bad record is an item like any other, and reading continues
/// after it; only after [`RecordReason::Read`] are there no further items.
pub struct Corpus {
    source: Box<dyn Source>,
    total_bytes: u64,
    identity: String,
    position: Option<Position>,
    records: u64,
    failed: bool,
    // Line or row of each id by 128 bits of its blake3.
    ids: HashMap<[u8; 16], u64>,
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
            let folder = folder::Folder::open(path)?;
            let (total_bytes, identity) = (folder.total_bytes(), folder.identity());
            return Ok(Self::new(folder, total_bytes, identity));
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
        let beginning = beginning(&mut file).map_err(CorpusError::io(path))?;
        let bytes = metadata.len();
        Ok(match format {
            Format::Parquet => Self::new(parquet::Table::open(path, file)?, bytes, identity),
            Format::Lines if beginning == b"PAR1" => {
                return Err(kind("it is Parquet; name it .parquet".into()));
            }
            Format::Lines if beginning.starts_with(&gzip::MAGIC) => {
                let (input, compressed) = gzip::decompress(file);
                let lines = jsonl::Lines::compressed(input, compressed);
                Self::new(lines, bytes, identity)
            }
            Format::Lines => {
                let input = BufReader::with_capacity(1 << 20, file);
                Self::new(jsonl::Lines::new(input), bytes, identity)
            }
        })
    }

    /// Reads JSON lines from anything. Such a corpus has no size and no identity.
    pub fn from_lines(input: impl Read + Send + 'static) -> Self {
        Self::new(jsonl::Lines::new(BufReader::new(input)), 0, String::new())
    }

    fn new(source: impl Source + 'static, total_bytes: u64, identity: String) -> Self {
        Self {
            source: Box::new(source),
            total_bytes,
            identity,
            position: None,
            records: 0,
            failed: false,
            ids: HashMap::new(),
        }
    }

    /// The position of the last item.
    pub fn last_position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Records that were read or skipped so far, good and bad: what [`Corpus::skip_records`] takes to
    /// go on from here.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How much was read of [`Corpus::total_bytes`].
    pub fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Size of the corpus in bytes, as it is stored.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
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
        self.records += self.source.pass(records);
        while self.records < end {
            match self.next() {
                Some(Err(error)) if self.failed => return Err(error.into()),
                Some(_) => {}
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

    /// Refuses an id that was there before.
    fn unique(
        &mut self,
        document: Document,
        position: &Position,
    ) -> Result<Document, RecordReason> {
        // Paths are unique.
        let Some(number) = position.number() else {
            return Ok(document);
        };
        match self.ids.entry(digest(&document.id)) {
            Entry::Vacant(free) => {
                free.insert(number);
                Ok(document)
            }
            Entry::Occupied(first) => Err(RecordReason::DuplicateId {
                id: document.id,
                first: position.at(*first.get()),
            }),
        }
    }
}

impl Iterator for Corpus {
    type Item = Result<Document, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let (position, record) = self.source.next()?;
        let document = record.and_then(|document| self.unique(document, &position));
        self.failed = matches!(document, Err(RecordReason::Read(_)));
        self.records += u64::from(!self.failed);
        self.position = Some(position.clone());
        Some(document.map_err(|reason| RecordError { position, reason }))
    }
}

enum Format {
    Lines,
    Parquet,
}

impl Format {
    fn from_path(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        let (name, gz) = match name.strip_suffix(".gz") {
            Some(name) => (name, ".gz"),
            None => (&*name, ""),
        };
        match (name.rsplit_once('.').map(|(_, extension)| extension), gz) {
            (Some("jsonl" | "ndjson"), _) | (None, ".gz") => Ok(Self::Lines),
            (Some("parquet"), "") => Ok(Self::Parquet),
            (None, _) => Err("it has no extension".into()),
            (Some(extension), gz) => Err(format!("its extension is .{extension}{gz}")),
        }
    }
}

/// The first bytes of a file, which is rewound.
fn beginning(file: &mut File) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    file.take(4).read_to_end(&mut beginning)?;
    file.rewind()?;
    Ok(beginning)
}
