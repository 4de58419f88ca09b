//! Passage blocks that were computed once and are spliced again: in memory, and on the disk.
//!
//! A block is found by its ids, so a changed text never finds the block of the old one. Each block also has the
//! name of its passage and the digest of its text, by which it is deleted when its document is.

mod block;
mod files;
mod memory;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::StartError;
use crate::model::{BlockDigest, Model, PassageKv};
use crate::tokens::Tokens;
use crate::tokens::splice::Passage;

pub use block::PassageKvSource;
pub(crate) use block::PassageName;
use files::PassageFiles;
use memory::Memory;

/// Changes of documents that are remembered for blocks that are being computed.
const CHANGES: usize = 4096;

/// What the blocks may take, and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassageCacheOptions {
    /// Bytes in memory. With 0 nothing is kept.
    pub bytes: usize,
    /// The directory of blocks that outlive the process, which is created if necessary, and the bytes that they may
    /// take there.
    pub disk: Option<(PathBuf, u64)>,
}

/// A moment between two changes of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// How often blocks were found, and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PassageCacheStats {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
    pub(crate) bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl std::fmt::Debug for PassageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassageCache").finish_non_exhaustive()
    }
}

/// The blocks. Shared by the step loop, which splices and adds them, the threads that search, which read them from
/// the disk, and whoever deletes documents.
pub(crate) struct PassageCache {
    tokens: Arc<Tokens>,
    /// Fingerprint of the model and kernels that compute keys and values.
    made_by: String,
    shared: Arc<Shared>,
    /// Blocks to be written to the disk, and the thread that writes them, until [`Self::finish`].
    writes: Mutex<Option<Sender<Write>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Locks are taken in this order: changes or files, then memory; files, then changes.
struct Shared {
    memory: Mutex<Memory>,
    files: Option<Mutex<PassageFiles>>,
    /// What was changed lately.
    changes: Mutex<Changes>,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Bytes of the files. The step loop reads them often, and may not wait for files.
    disk_bytes: AtomicU64,
}

struct Write {
    block: BlockDigest,
    name: PassageName,
    kv: Arc<PassageKv>,
    since: Moment,
}

/// Documents that were changed, each with its number.
#[derive(Default)]
struct Changes {
    latest: VecDeque<String>,
    /// The number of the change after the last.
    next: u64,
}

impl Changes {
    /// Whether a passage may have been changed since a moment.
    fn concern(&self, passage: &str, since: Moment) -> bool {
        let first = self.next - self.latest.len() as u64;
        let missed = since.0 < first;
        let later = self.latest.iter().zip(first..);
        missed
            || later
                .filter(|(_, number)| *number >= since.0)
                .any(|(document, _)| is_of(passage, document))
    }
}

/// Whether a passage is one of a document: it has its name, or its name and the passage's number.
fn is_of(passage: &str, document: &str) -> bool {
    let rest = passage.strip_prefix(document);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change of these states is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PassageCache {
    /// Opens the cache of a model; `None` where nothing is to be kept, or the model's passages depend on what is
    /// before them.
    ///
    /// # Errors
    /// The directory cannot be used, or a thread cannot be started.
    pub(crate) fn open(
        options: &PassageCacheOptions,
        model: &Model,
    ) -> Result<Option<Self>, StartError> {
        if options.bytes == 0 || model.tokens().block_marks().is_none() {
            return Ok(None);
        }
        let files = match &options.disk {
            Some((dir, bytes)) if *bytes > 0 => {
                let made_by = model.kv_fingerprint();
                let files = PassageFiles::open(dir, *bytes, made_by);
                Some(Mutex::new(files.map_err(|source| StartError::Store {
                    dir: dir.clone(),
                    source,
                })?))
            }
            _ => None,
        };
        let disk_bytes = files.as_ref().map_or(0, |files| lock(files).bytes());
        let shared = Arc::new(Shared {
            disk_bytes: AtomicU64::new(disk_bytes),
            memory: Mutex::new(Memory::new(options.bytes)),
            files,
            changes: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        let (mut writes, mut writer) = (None, None);
        if shared.files.is_some() {
            let (sender, inbox) = channel::<Write>();
            let shared = shared.clone();
            let write = move || inbox.into_iter().for_each(|write| shared.write(write));
            let thread = thread::Builder::new().name("onegen-passages".into());
            writer = Some(thread.spawn(write).map_err(StartError::Thread)?);
            writes = Some(sender);
        }
        Ok(Some(Self {
            tokens: model.tokens().clone(),
            made_by: model.kv_fingerprint(),
            shared,
            writes: Mutex::new(writes),
            writer: Mutex::new(writer),
        }))
    }

    /// What searches are to be compared with later, see [`Self::insert`].
    pub(crate) fn moment(&self) -> Moment {
        Moment(lock(&self.shared.changes).next)
    }

    /// A block that is in memory, and where it came from.
    pub(crate) fn get(&self, block: BlockDigest) -> Option<(Arc<PassageKv>, PassageKvSource)> {
        lock(&self.shared.memory).get(block)
    }

    /// Whether a block is in memory.
    pub(crate) fn contains(&self, block: BlockDigest) -> bool {
        lock(&self.shared.memory).contains(block)
    }

    /// Counts a splice, whose block was kept or had to be computed.
    pub(crate) fn count(&self, was_kept: bool) {
        let counter = if was_kept {
            &self.shared.hits
        } else {
            &self.shared.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads the block of a passage, which was found by a search after the moment `since`, from the disk if it is
    /// there and not in memory. `with_passage` reads what is kept with the passage where it was found. Blocks.
    pub(crate) fn prefetch(
        &self,
        passage: &Passage,
        since: Moment,
        with_passage: impl FnOnce() -> Option<Vec<u8>>,
    ) {
        // One that cannot be encoded fails where it is spliced.
        let Ok(ids) = self.tokens.passage_ids(&passage.title, &passage.text) else {
            return;
        };
        let block = BlockDigest::of(&ids);
        if self.contains(block) {
            return;
        }
        if let Some(files) = &self.shared.files {
            // Held until the block is in memory, so that a deletion finds it in one of the two.
            let mut files = lock(files);
            let read = files.read(block);
            let was_there = read.is_some();
            if let Some((name, kv)) = read {
                lock(&self.shared.memory).insert(block, name, Arc::new(kv), PassageKvSource::Disk);
            }
            self.shared.publish(&files);
            if was_there {
                return;
            }
        }
        let kv =
            with_passage().and_then(|bytes| PassageKv::from_kept(&bytes, &self.made_by, block));
        if let Some(kv) = kv {
            let (name, kv) = (PassageName::of(passage), Arc::new(kv));
            let source = PassageKvSource::Disk;
            self.shared.insert(block, name, &kv, since, source);
        }
    }

    /// Keeps a block that was computed for a passage, which was found by a search after the moment `since`.
    ///
    /// **Invariant:** a passage that was changed since is not kept: what a search finds after a deletion was there
    /// after it, and what is in the cache before it is deleted by [`Self::forget`].
    pub(crate) fn insert(
        &self,
        block: BlockDigest,
        name: PassageName,
        kv: PassageKv,
        since: Moment,
    ) {
        let kv = Arc::new(kv);
        let source = PassageKvSource::Memory;
        if !self.shared.insert(block, name.clone(), &kv, since, source) {
            return;
        }
        if let Some(writes) = &*lock(&self.writes) {
            // The writer lives as long as this sender.
            let _ = writes.send(Write {
                block,
                name,
                kv,
                since,
            });
        }
    }

    /// Waits until all blocks are written; later ones are not. A thread that searches may hold the cache longer than
    /// the engine that has ended, so dropping it would come too late.
    pub(crate) fn finish(&self) {
        drop(lock(&self.writes).take());
        if let Some(writer) = lock(&self.writer).take() {
            // A panic of the thread was reported when it happened.
            let _ = writer.join();
        }
    }

    /// To be called after documents were changed: deletes the blocks of their passages for which `holds` says, by
    /// the passage's id and its text's digest, that nothing holds them any more. Blocks.
    pub(crate) fn forget(&self, documents: &[String], holds: &dyn Fn(&str, &blake3::Hash) -> bool) {
        {
            let mut changes = lock(&self.shared.changes);
            for document in documents {
                changes.latest.push_back(document.clone());
                changes.next += 1;
            }
            let beyond = changes.latest.len().saturating_sub(CHANGES);
            changes.latest.drain(..beyond);
        }
        let of_them = |id: &str| documents.iter().any(|document| is_of(id, document));
        self.delete_if(|name| of_them(&name.id) && !holds(&name.id, &name.text));
    }

    /// Deletes the blocks of all passages that `holds` is false for. Blocks.
    pub(crate) fn forget_unless(&self, holds: &dyn Fn(&str, &blake3::Hash) -> bool) {
        {
            // Any document may have changed.
            let mut changes = lock(&self.shared.changes);
            changes.latest.clear();
            changes.next += 1;
        }
        self.delete_if(|name| !holds(&name.id, &name.text));
    }

    /// Deletes the blocks of the passages that are gone. `is_gone` is asked without a lock, since it reads indexes
    /// and the step loop must not wait for that: after a change was noted, no block of a passage that it concerns is
    /// added.
    fn delete_if(&self, is_gone: impl Fn(&PassageName) -> bool) {
        let mut gone = lock(&self.shared.memory).names();
        if let Some(files) = &self.shared.files {
            gone.extend(lock(files).names());
        }
        gone.retain(is_gone);
        if gone.is_empty() {
            return;
        }
        let files = self.shared.files.as_ref().map(lock);
        lock(&self.shared.memory).delete(&gone);
        if let Some(mut files) = files {
            files.delete(&gone);
            self.shared.publish(&files);
        }
    }

    pub(crate) fn stats(&self) -> PassageCacheStats {
        let memory = lock(&self.shared.memory);
        PassageCacheStats {
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
            evictions: memory.evictions(),
            bytes: memory.bytes() as u64,
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    /// Puts a block into memory, unless its passage was changed since a moment.
    fn insert(
        &self,
        block: BlockDigest,
        name: PassageName,
        kv: &Arc<PassageKv>,
        since: Moment,
        source: PassageKvSource,
    ) -> bool {
        let changes = lock(&self.changes);
        if changes.concern(&name.id, since) {
            return false;
        }
        // Both are held, so that a change comes before or after both.
        lock(&self.memory).insert(block, name, kv.clone(), source);
        true
    }

    fn write(&self, write: Write) {
        let Some(files) = &self.files else { return };
        let mut files = lock(files);
        if !lock(&self.changes).concern(&write.name.id, write.since) {
            files.write(write.block, write.name, &write.kv);
            self.publish(&files);
        }
    }

    fn publish(&self, files: &PassageFiles) {
        self.disk_bytes.store(files.bytes(), Ordering::Relaxed);
    }
}

impl Drop for PassageCache {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
