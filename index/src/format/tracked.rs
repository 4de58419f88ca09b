//! Writes files that never change afterwards, together with their checksums.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::format::blocks::{self, BLOCK, BlockHash};
use crate::format::file_record::FileRecord;

/// Hashes of the blocks of a segment's files that have more than one, in the order of their names.
pub(crate) const BLOCKS: &str = "blocks.blake3";

/// A file being written, with its length and the hashes of its blocks.
pub(crate) struct TrackedFile {
    path: PathBuf,
    out: BufWriter<File>,
    length: u64,
    block: Vec<u8>,
    blocks: Vec<BlockHash>,
}

/// The length and the hashes of a finished [`TrackedFile`].
pub(crate) struct WrittenFile {
    pub(crate) record: FileRecord,
    blocks: Vec<BlockHash>,
}

impl TrackedFile {
    /// Begins a file, in place of one that an interrupted writer has left.
    pub(crate) fn create(path: PathBuf) -> Result<Self, IndexError> {
        let file = File::create(&path).map_err(IndexError::io("create", &path))?;
        Ok(Self {
            path,
            out: BufWriter::with_capacity(BLOCK, file),
            length: 0,
            block: Vec::with_capacity(BLOCK),
            blocks: Vec::new(),
        })
    }

    /// Continues a file whose first `length` bytes are known to be good.
    pub(crate) fn resume(path: PathBuf, length: u64) -> Result<Self, IndexError> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(IndexError::io("open", &path))?;
        let found = file
            .metadata()
            .map_err(IndexError::io("read", &path))?
            .len();
        if found < length {
            return Err(IndexError::Length {
                file: path,
                expected: length,
                got: found,
            });
        }
        file.set_len(length)
            .map_err(IndexError::io("cut back", &path))?;
        let mut written = Self {
            out: BufWriter::with_capacity(
                BLOCK,
                file.try_clone().map_err(IndexError::io("open", &path))?,
            ),
            path,
            length: 0,
            block: Vec::with_capacity(BLOCK),
            blocks: Vec::new(),
        };
        let mut buffer = vec![0; BLOCK];
        while written.length < length {
            let read = file
                .read(&mut buffer)
                .map_err(IndexError::io("read", &written.path))?;
            if read == 0 {
                break;
            }
            written.track(&buffer[..read]);
        }
        file.seek(SeekFrom::End(0))
            .map_err(IndexError::io("read", &written.path))?;
        Ok(written)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        self.out
            .write_all(bytes)
            .map_err(IndexError::io("write", &self.path))?;
        self.track(bytes);
        Ok(())
    }

    fn track(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            // A full block is hashed only when more bytes follow, because the only block of a file
            // is hashed differently.
            if self.block.len() == BLOCK {
                self.end_block();
            }
            let fitting = bytes.len().min(BLOCK - self.block.len());
            let (now, later) = bytes.split_at(fitting);
            self.block.extend_from_slice(now);
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        let number = self.blocks.len() as u64;
        self.blocks.push(blocks::hash(number, &self.block));
        self.block.clear();
    }

    /// Bytes written so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_data())
            .map_err(IndexError::io("sync", &self.path))
    }

    /// Syncs the file to the disk and returns its length and hashes.
    pub(crate) fn finish(mut self) -> Result<WrittenFile, IndexError> {
        let blake3 = if self.blocks.is_empty() {
            // A file of one block is the root of its own tree.
            blake3::hash(&self.block)
        } else {
            self.end_block();
            blocks::root(&self.blocks, self.length)
        };
        self.out
            .flush()
            .and_then(|()| self.out.get_ref().sync_all())
            .map_err(IndexError::io("sync", &self.path))?;
        Ok(WrittenFile {
            record: FileRecord {
                length: self.length,
                blake3: blake3.to_hex().to_string(),
            },
            blocks: self.blocks,
        })
    }
}

/// Writes the block hashes of a directory's files and returns the records of them all.
pub(crate) fn write_blocks(
    dir: &Path,
    files: impl IntoIterator<Item = (&'static str, WrittenFile)>,
) -> Result<BTreeMap<String, FileRecord>, IndexError> {
    let files: BTreeMap<_, _> = files.into_iter().collect();
    let mut out = TrackedFile::create(dir.join(BLOCKS))?;
    for file in files.values() {
        out.write(file.blocks.as_flattened())?;
    }
    out.finish()?;
    Ok(files
        .into_iter()
        .map(|(name, file)| (name.to_owned(), file.record))
        .collect())
}

/// Syncs a directory's entries to the disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), IndexError> {
    // Only Unix can open a directory to sync it; elsewhere renames are durable enough.
    if cfg!(unix) {
        let handle = File::open(dir).map_err(IndexError::io("open", dir))?;
        handle.sync_all().map_err(IndexError::io("sync", dir))?;
    }
    Ok(())
}

/// Where [`replace`] writes the new content of a file.
pub(crate) fn aside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Replaces a file whole. At every moment the name leads to either the old or the new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), IndexError> {
    let aside = aside(path);
    let write = || -> Result<(), IndexError> {
        let mut file = File::create(&aside).map_err(IndexError::io("create", &aside))?;
        file.write_all(content)
            .map_err(IndexError::io("write", &aside))?;
        file.sync_all().map_err(IndexError::io("sync", &aside))?;
        fs::rename(&aside, path).map_err(IndexError::io("rename", &aside))
    };
    write().inspect_err(|_| {
        // The file may occupy space on a full disk, or may never have been created.
        let _ = fs::remove_file(&aside);
    })?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}
