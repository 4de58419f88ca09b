//! Blocks on the disk, a file each, the least recently used out first.
//!
//! A file is a line of JSON ([`Header`]), [`PassageKv::to_bytes`], and the blake3 of both. It is written beside its place and renamed, so a file is whole or not there.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::block::PassageName;
use crate::files::make_private_dir;
use crate::model::{BlockDigest, PassageKv};

const BLOCK: &str = "block";
const UNFINISHED: &str = "tmp";
/// Bytes of a checksum.
const CHECKSUM: usize = 32;
/// A first line that is longer is none of ours.
const MAX_HEADER: usize = 64 << 10;

/// **Invariant:** `bytes` is the sum of the files' bytes. It is at most `limit` after each call.
pub(super) struct PassageFiles {
    dir: PathBuf,
    limit: u64,
    /// Fingerprint of the model and kernels that compute keys and values.
    made_by: String,
    held: HashMap<BlockDigest, HeldFile>,
    bytes: u64,
    clock: u64,
}

struct HeldFile {
    name: PassageName,
    bytes: u64,
    /// The clock at its last use.
    used: u64,
}

/// What a file says of itself.
#[derive(Serialize, Deserialize)]
struct Header {
    made_by: String,
    passage: String,
    text: String,
}

impl PassageFiles {
    /// Opens a directory, creating it if necessary. Files that another model or other kernels have made, and what was
    /// not finished, are deleted.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(super) fn open(dir: &Path, limit: u64, made_by: String) -> io::Result<Self> {
        make_private_dir(dir)?;
        let mut files = Self {
            dir: dir.to_owned(),
            limit,
            made_by,
            held: HashMap::new(),
            bytes: 0,
            clock: 0,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match files.known(&path) {
                Some(known) => found.push(known),
                None => fs::remove_file(&path)?,
            }
        }
        found.sort_by_key(|(modified, ..)| *modified);
        for (_, block, name, bytes) in found {
            files.hold(block, name, bytes);
        }
        files.keep_under_limit();
        Ok(files)
    }

    fn known(&self, path: &Path) -> Option<(std::time::SystemTime, BlockDigest, PassageName, u64)> {
        if path.extension()? != BLOCK {
            return None;
        }
        let digest = BlockDigest::from_hex(path.file_stem()?.to_str()?)?;
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut line = Vec::new();
        let limited = io::Read::take(file, MAX_HEADER as u64);
        BufReader::new(limited).read_until(b'\n', &mut line).ok()?;
        let header: Header = serde_json::from_slice(&line).ok()?;
        let name = PassageName {
            id: header.passage,
            text: blake3::Hash::from_hex(header.text).ok()?,
        };
        let modified = metadata.modified().ok()?;
        (header.made_by == self.made_by).then_some((modified, digest, name, metadata.len()))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a block. A file that cannot be read or is damaged is deleted and told in the log.
    pub(super) fn read(&mut self, block: BlockDigest) -> Option<(PassageName, PassageKv)> {
        self.clock += 1;
        let held = self.held.get_mut(&block)?;
        held.used = self.clock;
        let name = held.name.clone();
        let path = self.path(block, BLOCK);
        match fs::read(&path).and_then(|file| parse(&file)) {
            Ok(kv) => Some((name, kv)),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "a kept passage cannot be read and is deleted");
                self.remove(block);
                None
            }
        }
    }

    /// Writes a block, unless it is larger than all may be. What cannot be written is told in the log and computed
    /// again when it is needed.
    pub(super) fn write(&mut self, block: BlockDigest, name: PassageName, kv: &PassageKv) {
        if self.held.contains_key(&block) {
            return;
        }
        let header = Header {
            made_by: self.made_by.clone(),
            passage: name.id.clone(),
            text: name.text.to_hex().to_string(),
        };
        let file = match contents(&header, kv) {
            Ok(file) if file.len() as u64 <= self.limit => file,
            _ => return,
        };
        let unfinished = self.path(block, UNFINISHED);
        let written = fs::write(&unfinished, &file)
            .and_then(|()| fs::rename(&unfinished, self.path(block, BLOCK)));
        match written {
            Ok(()) => {
                self.hold(block, name, file.len() as u64);
                self.keep_under_limit();
            }
            Err(error) => {
                tracing::warn!(%error, "a passage cannot be kept on the disk");
                // A part of a file would take room that others may need.
                let _ = fs::remove_file(&unfinished);
            }
        }
    }

    /// The passages whose blocks are held.
    pub(super) fn names(&self) -> HashSet<PassageName> {
        self.held.values().map(|held| held.name.clone()).collect()
    }

    /// Deletes the blocks of these passages.
    pub(super) fn delete(&mut self, gone: &HashSet<PassageName>) {
        let gone = self
            .held
            .iter()
            .filter(|(_, held)| gone.contains(&held.name));
        let gone: Vec<_> = gone.map(|(block, _)| *block).collect();
        gone.into_iter().for_each(|block| self.remove(block));
    }

    fn hold(&mut self, block: BlockDigest, name: PassageName, bytes: u64) {
        self.clock += 1;
        self.bytes += bytes;
        let used = self.clock;
        let file = HeldFile { name, bytes, used };
        self.held.insert(block, file);
    }

    fn keep_under_limit(&mut self) {
        while self.bytes > self.limit {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.used);
            let Some(oldest) = oldest.map(|(block, _)| *block) else {
                return;
            };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, block: BlockDigest) {
        let Some(held) = self.held.remove(&block) else {
            return;
        };
        self.bytes -= held.bytes;
        let path = self.path(block, BLOCK);
        if let Err(error) = fs::remove_file(&path) {
            tracing::error!(%error, file = %path.display(), "a kept passage cannot be deleted");
        }
    }

    fn path(&self, block: BlockDigest, extension: &str) -> PathBuf {
        self.dir.join(block.to_hex()).with_extension(extension)
    }
}

fn contents(header: &Header, kv: &PassageKv) -> io::Result<Vec<u8>> {
    let mut file = serde_json::to_vec(header)?;
    file.push(b'\n');
    file.extend(kv.to_bytes());
    let checksum = blake3::hash(&file);
    file.extend_from_slice(checksum.as_bytes());
    Ok(file)
}

fn parse(file: &[u8]) -> io::Result<PassageKv> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    let end = file.len().checked_sub(CHECKSUM).ok_or_else(damaged)?;
    let (file, checksum) = file.split_at(end);
    if blake3::hash(file).as_bytes() != checksum {
        return Err(damaged());
    }
    let line = file
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(damaged)?;
    PassageKv::from_bytes(&file[line + 1..]).ok_or_else(damaged)
}
