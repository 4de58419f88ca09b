//! The directory that keeps conversations when the process ends. Each has a record and a KV file.
//!
//! A record says which positions of the KV file are valid. It is replaced whole, so a complete record exists
//! at every moment. New positions are appended to the KV file before a record names them. Before old
//! positions are overwritten, a record that does not name them is written. So the process may be killed at
//! any moment: the positions that the record names are in the KV file.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::record::{KvRecord, Piece, Record};
use super::{StoreOptions, StoredConversation};
use crate::conversations::KvSource;
use crate::error::StartError;
use crate::files::make_private_dir;
use crate::ids::ConversationId;
use crate::model::{KvCache, Model};
use crate::tokens::token_log::TokenLog;

const RECORD: &str = "conversation";
const KV: &str = "kv";
const UNFINISHED: &str = "tmp";

/// The directory, locked for this process.
pub(super) struct Files {
    dir: PathBuf,
    /// Fingerprint of the tokenizer.
    tokenizer: String,
    /// Fingerprint of the model and kernels that compute keys and values.
    made_by: String,
    layout: Layout,
    kv_limit: u64,
    held: HashMap<ConversationId, KvFile>,
    kv_bytes: u64,
    clock: u64,
    /// The lock is held until this file is closed.
    _lock: File,
}

/// How keys and values stand in a piece: layer by layer, and in each layer a row of every position for each head's
/// keys, then for its values.
#[derive(Debug, Clone, Copy)]
struct Layout {
    layers: usize,
    /// Bytes of one position in one layer.
    layer_bytes: usize,
    /// Bytes of one row.
    row_bytes: usize,
}

/// What is known of one conversation's KV file.
struct KvFile {
    pieces: Vec<Piece>,
    /// Bytes of the pieces.
    kv_bytes: u64,
    /// Larger the later the conversation was used.
    used: u64,
}

impl Files {
    /// Opens the directory, creating it if necessary, and reads every record that was made with the
    /// model's tokenizer, the least recently written first. Other records stay in the directory
    /// unread.
    ///
    /// # Errors
    /// The directory cannot be made or read, or another process has it.
    pub(super) fn open(
        options: &StoreOptions,
        model: &Model,
    ) -> Result<(Self, Vec<StoredConversation>), StartError> {
        let dir = &options.dir;
        let failed = |source| StartError::Store {
            dir: dir.clone(),
            source,
        };
        make_private_dir(dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::StoreInUse { dir: dir.clone() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut files = Self {
            dir: dir.clone(),
            tokenizer: model.fingerprints().tokenizer.clone(),
            made_by: model.kv_fingerprint(),
            layout: Layout::of(&model.new_cache()),
            kv_limit: options.kv_bytes,
            held: HashMap::new(),
            kv_bytes: 0,
            clock: 0,
            _lock: lock,
        };
        let stored = files.read_all(model).map_err(failed)?;
        Ok((files, stored))
    }

    /// Bytes of all KV files.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    /// Writes a conversation's log, and those keys and values that are not in the KV file yet.
    /// `unchanged` is the number of the log's first tokens that are the same as when it was last
    /// written. A copy's file begins with what `source`'s file holds.
    ///
    /// Returns what came of writing the KV file, since the log is written without it too.
    ///
    /// # Errors
    /// The log could not be written. The record is then the old one.
    pub(super) fn save(
        &mut self,
        id: &ConversationId,
        log: &TokenLog,
        unchanged: usize,
        source: Option<&KvSource>,
        cache: Option<&KvCache>,
    ) -> io::Result<io::Result<()>> {
        let mut pieces = self.release(id);
        let kept = within(&pieces, unchanged);
        let names_changed = kept < pieces.len();
        pieces.truncate(kept);
        let copied = source.map_or(Ok(()), |source| self.copy(source, id, &mut pieces));
        let written = self.write(id, log, names_changed, &mut pieces, cache);
        self.hold(id, pieces);
        self.keep_under_limit(id);
        Ok(copied.and(written?))
    }

    /// Begins the KV file of a new conversation with the first positions of another's. Whole pieces are copied by
    /// the system, which need not read them; damage is then found when the copy is read.
    fn copy(
        &mut self,
        source: &KvSource,
        to: &ConversationId,
        pieces: &mut Vec<Piece>,
    ) -> io::Result<()> {
        let Some(held) = self.held.get_mut(&source.conversation) else {
            return Ok(());
        };
        self.clock += 1;
        held.used = self.clock;
        let (whole, others) = held.pieces.split_at(within(&held.pieces, source.positions));
        let whole = whole.to_vec();
        let rest = source.positions - positions(&whole);
        let cut = others.first().filter(|_| rest > 0).cloned();
        let wanted = positions(&whole) + cut.as_ref().map_or(0, |_| rest);
        if wanted == 0 || self.layout.bytes(wanted) > self.kv_limit {
            return Ok(());
        }
        let path = path_of(&self.dir, to, KV);
        let mut from = File::open(path_of(&self.dir, &source.conversation, KV))?;
        let mut file = File::create(&path)?;
        let copy = || -> io::Result<Vec<Piece>> {
            let bytes = self.layout.bytes(positions(&whole));
            if io::copy(&mut (&mut from).take(bytes), &mut file)? < bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut copied = whole;
            if let Some(piece) = cut {
                let mut hasher = blake3::Hasher::new();
                self.layout.read_piece(&mut from, &piece, rest, |_, rows| {
                    hasher.update(rows);
                    file.write_all(rows)
                })?;
                let blake3 = hasher.finalize().to_hex().to_string();
                copied.push(Piece {
                    positions: rest,
                    blake3,
                });
            }
            Ok(copied)
        };
        // A part of them would take room that records may need.
        *pieces = copy().inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(())
    }

    /// Writes the files of [`Files::save`]. `pieces` are the valid ones before and afterwards.
    fn write(
        &self,
        id: &ConversationId,
        log: &TokenLog,
        names_changed: bool,
        pieces: &mut Vec<Piece>,
        cache: Option<&KvCache>,
    ) -> io::Result<io::Result<()>> {
        if names_changed {
            self.write_record(id, log, pieces)?;
        }
        let before = pieces.len();
        let kv_written = match cache {
            Some(cache) if self.layout.bytes(cache.len()) <= self.kv_limit => {
                self.append(id, pieces, cache)
            }
            _ => Ok(()),
        };
        self.write_record(id, log, pieces)
            .inspect_err(|_| pieces.truncate(before))?;
        Ok(kv_written)
    }

    /// Reads keys and values of at most `positions` positions into an empty cache that has room for
    /// them.
    ///
    /// # Errors
    /// The file cannot be read or is damaged; the cache then holds the positions before the error.
    pub(super) fn load(
        &mut self,
        id: &ConversationId,
        positions: usize,
        cache: &mut KvCache,
    ) -> io::Result<()> {
        let Some(held) = self.held.get_mut(id) else {
            return Ok(());
        };
        self.clock += 1;
        held.used = self.clock;
        let mut missing = positions;
        let mut file = None;
        for piece in &held.pieces {
            if missing == 0 {
                break;
            }
            let file = match &mut file {
                Some(file) => file,
                none => none.insert(File::open(path_of(&self.dir, id, KV))?),
            };
            // A copy may end inside a piece, which is read and checked whole.
            let wanted = missing.min(piece.positions);
            let new = cache.len()..cache.len() + wanted;
            self.layout.read_piece(file, piece, wanted, |layer, rows| {
                let written = cache.set_layer_rows(layer, new.clone(), rows);
                written.map_err(io::Error::other)
            })?;
            cache.grow(wanted);
            missing -= wanted;
        }
        Ok(())
    }

    /// Deletes a conversation.
    pub(super) fn remove(&mut self, id: &ConversationId) -> io::Result<()> {
        self.release(id);
        remove_if_there(&path_of(&self.dir, id, KV))?;
        remove_if_there(&path_of(&self.dir, id, RECORD))
    }

    /// Appends the positions that `pieces` do not cover.
    fn append(
        &self,
        id: &ConversationId,
        pieces: &mut Vec<Piece>,
        cache: &KvCache,
    ) -> io::Result<()> {
        let new = positions(pieces)..cache.len();
        if new.is_empty() {
            return Ok(());
        }
        let path = path_of(&self.dir, id, KV);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let start = self.layout.bytes(new.start);
        // The bytes after `start` are no longer named by any record.
        file.set_len(start)?;
        file.seek(SeekFrom::Start(start))?;
        // A part of the positions would take room that the record may need.
        let blake3 = write_piece(&mut file, cache, new.clone())
            .inspect_err(|_| drop(file.set_len(start)))?;
        pieces.push(Piece {
            positions: new.len(),
            blake3,
        });
        Ok(())
    }

    fn write_record(&self, id: &ConversationId, log: &TokenLog, kv: &[Piece]) -> io::Result<()> {
        let kv = KvRecord {
            made_by: self.made_by.clone(),
            pieces: kv.to_vec(),
        };
        let record = Record::new(id.as_str(), &self.tokenizer, log, kv);
        let unfinished = path_of(&self.dir, id, UNFINISHED);
        fs::write(&unfinished, record.to_bytes()?)
            .and_then(|()| fs::rename(&unfinished, path_of(&self.dir, id, RECORD)))
            // A part of a record would take room that others may need.
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))
    }

    /// Deletes KV files, the least recently used first, until the rest is within the limit. The
    /// file of `last` is the last to be deleted.
    fn keep_under_limit(&mut self, last: &ConversationId) {
        while self.kv_bytes > self.kv_limit {
            let with_kv = self.held.iter().filter(|(_, held)| held.kv_bytes > 0);
            let oldest = with_kv.min_by_key(|(id, held)| (*id == last, held.used));
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            // The record still names these positions. Reading them finds nothing, and the log is forwarded again.
            if let Err(error) = remove_if_there(&path_of(&self.dir, &id, KV)) {
                tracing::warn!(%error, conversation = %id, "a KV file could not be deleted");
            }
            self.hold(&id, Vec::new());
        }
    }

    fn hold(&mut self, id: &ConversationId, pieces: Vec<Piece>) {
        self.release(id);
        self.clock += 1;
        let kv_bytes = self.layout.bytes(positions(&pieces));
        self.kv_bytes += kv_bytes;
        let held = KvFile {
            pieces,
            kv_bytes,
            used: self.clock,
        };
        self.held.insert(id.clone(), held);
    }

    /// Removes a conversation from the counted bytes and returns its pieces.
    fn release(&mut self, id: &ConversationId) -> Vec<Piece> {
        let held = self.held.remove(id);
        self.kv_bytes -= held.as_ref().map_or(0, |held| held.kv_bytes);
        held.map(|held| held.pieces).unwrap_or_default()
    }

    fn read_all(&mut self, model: &Model) -> io::Result<Vec<StoredConversation>> {
        let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|one| one.to_str());
            match extension {
                Some(RECORD) => match fs::metadata(&path).and_then(|meta| meta.modified()) {
                    Ok(modified) => found.push((modified, path)),
                    // A link that leads nowhere, for example.
                    Err(error) => tracing::warn!(
                        file = %path.display(),
                        %error,
                        "a conversation cannot be read and is left out"
                    ),
                },
                Some(UNFINISHED) => remove_if_there(&path)?,
                Some(KV) if !path.with_extension(RECORD).exists() => remove_if_there(&path)?,
                _ => {}
            }
        }
        found.sort();
        let mut all = Vec::new();
        for (_, path) in found {
            match self.read_one(&path, model) {
                Ok(stored) => all.extend(stored),
                Err(reason) => tracing::warn!(
                    file = %path.display(),
                    reason,
                    "a conversation cannot be read and is left out"
                ),
            }
        }
        Ok(all)
    }

    /// Returns `None` for a conversation that was made with another tokenizer.
    fn read_one(
        &mut self,
        path: &Path,
        model: &Model,
    ) -> Result<Option<StoredConversation>, String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        let record = Record::parse(&bytes)?;
        if record.tokenizer != self.tokenizer {
            return Ok(None);
        }
        let log = record.log_for(model)?;
        let id = ConversationId::from(record.conversation);
        if path != path_of(&self.dir, &id, RECORD) {
            return Err(format!("it is the conversation {id} under another's name"));
        }
        // Keys and values of another model are useless: the log is forwarded again, and the new
        // ones replace them.
        let fits = record.kv.made_by == self.made_by;
        let mut pieces = if fits { record.kv.pieces } else { Vec::new() };
        let there = fs::metadata(path_of(&self.dir, &id, KV)).map_or(0, |meta| meta.len());
        while self.layout.bytes(positions(&pieces)) > there || positions(&pieces) > log.len() {
            pieces.pop();
        }
        let kv_positions = positions(&pieces);
        self.hold(&id, pieces);
        Ok(Some(StoredConversation {
            id,
            log,
            kv_positions,
        }))
    }
}

impl Layout {
    fn of(cache: &KvCache) -> Self {
        let layer_bytes = cache.layer_bytes();
        Self {
            layers: cache.layers(),
            layer_bytes,
            row_bytes: layer_bytes / cache.layer_row_count(),
        }
    }

    /// Bytes of so many positions in a KV file.
    fn bytes(&self, positions: usize) -> u64 {
        (self.layers * self.layer_bytes) as u64 * positions as u64
    }

    /// Reads a whole piece and hands over each layer's rows of its first `wanted` positions.
    ///
    /// # Errors
    /// The file cannot be read or is damaged. Rows may have been handed over by then.
    fn read_piece(
        &self,
        file: &mut File,
        piece: &Piece,
        wanted: usize,
        mut rows_of: impl FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut hasher = blake3::Hasher::new();
        let mut rows = vec![0; piece.positions * self.layer_bytes];
        for layer in 0..self.layers {
            file.read_exact(&mut rows)?;
            hasher.update(&rows);
            if wanted == piece.positions {
                rows_of(layer, &rows)?;
                continue;
            }
            let heads = rows.chunks_exact(piece.positions * self.row_bytes);
            let first = heads.flat_map(|head| &head[..wanted * self.row_bytes]);
            rows_of(layer, &first.copied().collect::<Vec<_>>())?;
        }
        if hasher.finalize().to_hex().as_str() != piece.blake3 {
            return Err(io::Error::other("the KV file is damaged"));
        }
        Ok(())
    }
}

/// How many positions the pieces hold.
fn positions(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.positions).sum()
}

/// How many of the first pieces lie wholly within the first `limit` positions.
fn within(pieces: &[Piece], limit: usize) -> usize {
    let mut end = 0;
    pieces
        .iter()
        .take_while(|piece| {
            end += piece.positions;
            end <= limit
        })
        .count()
}

/// Writes positions layer by layer, keys then values, as the cache keeps them, and returns the bytes' blake3.
fn write_piece(file: &mut File, cache: &KvCache, positions: Range<usize>) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for layer in 0..cache.layers() {
        let rows = cache
            .layer_rows(layer, positions.clone())
            .map_err(io::Error::other)?;
        hasher.update(&rows);
        file.write_all(&rows)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// A conversation's name may be any text, so files are called by its digest.
fn path_of(dir: &Path, id: &ConversationId, extension: &str) -> PathBuf {
    let digest = blake3::hash(id.as_str().as_bytes()).to_hex();
    dir.join(&digest.as_str()[..32]).with_extension(extension)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
