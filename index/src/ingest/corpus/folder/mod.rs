//! A folder of files: each text a document, and each record of the files that hold many.

mod front_matter;
mod html;
mod kind;
mod partition;
mod text;
mod walk;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::kind::{Kind, TextKind};
use self::walk::CorpusFile;
use super::document::Document;
use super::file::Format;
use super::identity;
use super::left_out::LeftOut;
use super::record::{Position, RecordReason};
use super::source::{CorpusError, RECORD_LIMIT, Source};

/// The files below a directory, by path. See [`walk`] for links and hidden files.
pub(super) struct Folder {
    dir: PathBuf,
    files: Vec<CorpusFile>,
    next: usize,
    /// The records of the file at `next`, once it is open.
    records: Option<Records>,
    /// Bytes of the files before `next`.
    bytes_read: u64,
}

/// A file that holds many records.
struct Records {
    source: Box<dyn Source>,
    /// What the names of its directories say of each record.
    columns: Map<String, Value>,
    is_empty: bool,
}

impl Folder {
    /// Lists a folder, and what is not read of it.
    pub(super) fn open(dir: &Path) -> Result<(Self, LeftOut), CorpusError> {
        let (files, left_out) = walk::walk(dir)?;
        if files.is_empty() {
            let mut reason = "no text file is in it".to_owned();
            if !left_out.is_empty() {
                reason.push_str(&format!(" (left out: {left_out})"));
            }
            return Err(CorpusError::Kind {
                path: dir.to_path_buf(),
                reason,
            });
        }
        let folder = Self {
            dir: dir.to_path_buf(),
            files,
            next: 0,
            records: None,
            bytes_read: 0,
        };
        Ok((folder, left_out))
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn identity(&self) -> String {
        identity::of_files(self.files.iter().map(|file| (&*file.path, &file.stamp)))
    }

    fn open_records(&self, file: &CorpusFile, format: Format) -> Result<Records, RecordReason> {
        let path = self.dir.join(&file.path);
        let opened = File::open(&path).map_err(RecordReason::Open)?;
        let source = format.open(&path, opened).map_err(|error| match error {
            CorpusError::Io { source, .. } => RecordReason::Open(source),
            CorpusError::Kind { reason, .. } | CorpusError::Parquet { reason, .. } => {
                RecordReason::Format(reason)
            }
            other => RecordReason::Format(other.to_string()),
        })?;
        Ok(Records {
            source,
            columns: partition::columns(&file.path),
            is_empty: true,
        })
    }

    /// The next record of the open file; closes it at its end.
    fn next_record(
        &mut self,
        left_out: &mut LeftOut,
    ) -> Option<(Position, Result<Document, RecordReason>)> {
        let records = self.records.as_mut()?;
        let file = name(&self.files[self.next].path);
        match records.source.next(left_out) {
            Some((record, mut document)) => {
                records.is_empty = false;
                if let Ok(document) = &mut document {
                    for (name, value) in &records.columns {
                        let metadata = document.metadata.get_or_insert_default();
                        metadata.entry(name).or_insert_with(|| value.clone());
                    }
                }
                let record = Box::new(record);
                Some((Position::InFile { file, record }, document))
            }
            None => {
                if records.is_empty {
                    left_out.add(RecordReason::Empty("text").short(), file);
                }
                self.close();
                None
            }
        }
    }

    /// Goes on to the next file.
    fn close(&mut self) {
        self.records = None;
        self.bytes_read += self.files[self.next].bytes;
        self.next += 1;
    }

    fn document(
        &self,
        file: &CorpusFile,
        kind: TextKind,
        left_out: &mut LeftOut,
    ) -> Result<Document, RecordReason> {
        let id = id(&file.path).ok_or(RecordReason::NotUtf8("its name"))?;
        let content = read(&self.dir.join(&file.path))?;
        let text = text::read(&content, kind);
        if let Some(damage) = &text.front_matter_damage {
            let reason = "with front matter that cannot be read and stays in the text";
            left_out.add(reason, format!("{id} ({damage})"));
        }
        if text.text.trim().is_empty() {
            return Err(RecordReason::Empty("text"));
        }
        let name = || file.path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Document {
            id,
            title: text.title.unwrap_or_else(|| name().into_owned()),
            text: text.text.trim().to_owned(),
            url: text.url,
            metadata: text.metadata,
            sentences: None,
        })
    }
}

impl Source for Folder {
    fn next(
        &mut self,
        left_out: &mut LeftOut,
    ) -> Option<(Position, Result<Document, RecordReason>)> {
        loop {
            if let Some(record) = self.next_record(left_out) {
                return Some(record);
            }
            let file = self.files.get(self.next)?;
            let document = match file.kind {
                Kind::Text(kind) => self.document(file, kind, left_out),
                Kind::Records(format) => match self.open_records(file, format) {
                    Ok(records) => {
                        self.records = Some(records);
                        continue;
                    }
                    Err(reason) => Err(reason),
                },
            };
            let position = Position::File(name(&file.path));
            self.close();
            return Some((position, document));
        }
    }

    fn bytes_read(&self) -> u64 {
        let of_records = self
            .records
            .as_ref()
            .map(|records| records.source.bytes_read());
        self.bytes_read + of_records.unwrap_or_default()
    }
}

/// The content of a text file, without a byte order mark.
fn read(path: &Path) -> Result<String, RecordReason> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(RECORD_LIMIT + 1).read_to_end(&mut content))
        .map_err(RecordReason::Open)?;
    if content.len() as u64 > RECORD_LIMIT {
        return Err(RecordReason::TooLong {
            limit: RECORD_LIMIT,
        });
    }
    let mut content = String::from_utf8(content).map_err(|_| RecordReason::NotUtf8("it"))?;
    if content.contains('\0') {
        return Err(RecordReason::Binary);
    }
    if content.starts_with('\u{feff}') {
        content.remove(0);
    }
    Ok(content)
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The path with `/`, if it is UTF-8.
fn id(path: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    Some(names?.join("/"))
}

#[cfg(test)]
mod tests;
