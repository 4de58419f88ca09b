//! Which documents of a corpus' index were changed through the API.
//!
//! A corpus that changes gets another index, and what clients have put into the old one, or taken out of it,
//! must be so in the new one too. So the names of these documents are written down, before they change, in a
//! file that belongs to the corpus and to none of its indexes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The file, one JSON line for each event. Its last line may be torn: what it names has not changed then.
#[derive(Debug)]
pub(super) struct ChangeJournal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    end: u64,
    index: Option<String>,
    documents: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<Name, Names> {
    /// The directory of the index that is served from here on. It holds all changes that were noted before.
    Index(Name),
    /// Documents that are about to be put in or taken out.
    Changing(Names),
}

impl ChangeJournal {
    /// Opens the journal of a corpus, which is created if there is none.
    ///
    /// # Errors
    /// It cannot be read or written, or is damaged.
    pub(super) fn open(data_dir: &Path, corpus: &Path) -> Result<Self> {
        let path = data_dir.join(file_name(corpus)?);
        let unusable = || format!("cannot use {}", path.display());
        fs::create_dir_all(data_dir).with_context(unusable)?;
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).with_context(unusable)?;
        let content = fs::read(&path).with_context(unusable)?;
        let whole = content.iter().rposition(|&byte| byte == b'\n');
        let end = whole.map_or(0, |at| at + 1);
        let mut journal = Self {
            path: path.clone(),
            file,
            end: end as u64,
            index: None,
            documents: BTreeSet::new(),
        };
        for (number, line) in (1..).zip(content[..end].split(|&byte| byte == b'\n')) {
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line<String, BTreeSet<String>>>(line) {
                Ok(Line::Index(name)) => journal.index = Some(name),
                Ok(Line::Changing(documents)) => journal.documents.extend(documents),
                Err(error) => bail!(
                    "{} is damaged in line {number} ({error}); it names the documents of {} that were changed \
                     through the API: mend the line, or move the file away if these documents do not matter",
                    path.display(),
                    corpus.display()
                ),
            }
        }
        Ok(journal)
    }

    /// The directory of the index that was served last.
    pub(super) fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// The documents that were changed.
    pub(super) fn documents(&self) -> &BTreeSet<String> {
        &self.documents
    }

    /// Notes that documents are about to be changed.
    ///
    /// # Errors
    /// The file cannot be written. They must not be changed then.
    pub(super) fn changing(&mut self, documents: &[String]) -> io::Result<()> {
        let new = documents.iter().filter(|id| !self.documents.contains(*id));
        let new: BTreeSet<String> = new.cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        self.append(&Line::Changing(&new))?;
        self.documents.extend(new);
        Ok(())
    }

    /// Notes which index is served, once it holds all changes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn serve(&mut self, index: &str) -> io::Result<()> {
        if self.index.as_deref() != Some(index) {
            self.append(&Line::Index(index))?;
            self.index = Some(index.to_owned());
        }
        Ok(())
    }

    /// Writes a line and syncs it.
    fn append(&mut self, line: &Line<&str, &BTreeSet<String>>) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&bytes))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            tracing::error!(%error, file = %self.path.display(), "a change cannot be noted");
            // What stays of the line is written over by the next one, or is a torn last line.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// The name of the journal of the corpus at a path, whatever its content is.
fn file_name(corpus: &Path) -> Result<PathBuf> {
    let path = match fs::canonicalize(corpus) {
        Err(error) if error.kind() == ErrorKind::NotFound => std::path::absolute(corpus),
        found => found,
    };
    let path = path.with_context(|| format!("cannot read the corpus {}", corpus.display()))?;
    let digest = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    let mut name = corpus.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{}.changes", &digest[..16]));
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(journal: &ChangeJournal) -> Vec<&str> {
        journal.documents().iter().map(String::as_str).collect()
    }

    #[test]
    fn what_was_noted_is_known_again_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = dir.path().join("corpus.jsonl");
        fs::write(&corpus, "").unwrap();
        let mut journal = ChangeJournal::open(dir.path(), &corpus).unwrap();
        journal.serve("first").unwrap();
        journal.changing(&["a".into(), "b\n".into()]).unwrap();
        let path = journal.path.clone();
        let length = fs::metadata(&path).unwrap().len();
        journal.changing(&["a".into()]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        journal.serve("second").unwrap();
        drop(journal);
        let mut torn = File::options().append(true).open(&path).unwrap();
        torn.write_all(b"{\"changing\":[\"c").unwrap();

        let mut journal = ChangeJournal::open(dir.path(), &corpus).unwrap();
        assert_eq!(journal.index(), Some("second"));
        assert_eq!(names(&journal), ["a", "b\n"]);
        journal.changing(&["d".into()]).unwrap();
        let journal = ChangeJournal::open(dir.path(), &corpus).unwrap();
        assert_eq!(names(&journal), ["a", "b\n", "d"]);

        fs::write(
            &path,
            "{\"changing\":[\"a\"]}\n{\"chan\n{\"index\":\"x\"}\n",
        )
        .unwrap();
        let error = ChangeJournal::open(dir.path(), &corpus).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
