//! Keeps conversations on disk, so that they survive the process and their KV-caches can be dropped
//! from memory.
//!
//! At the end of every turn a thread of the store writes the conversation's log and its new keys and values,
//! and only then is the end sent to the client. So a KV-cache in memory may be dropped at any time. When the
//! conversation continues, the cache is read back instead of being computed again.

mod files;
pub(super) mod record;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::conversations::{Conversation, KvSource};
use crate::error::StartError;
use crate::ids::ConversationId;
use crate::ids::SequenceId;
use crate::model::{KvCache, Model};
use crate::tokens::token_log::TokenLog;

use files::Files;

/// Bytes of KV-caches that may wait to be written. Beyond that, a turn's log is written without its
/// keys and values; if these are dropped later, they are computed again.
const MAX_PENDING_BYTES: usize = 256 << 20;

/// Where and how conversations are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The directory, which is created if necessary. Only one engine at a time may use it.
    pub dir: PathBuf,
    /// Bytes that keys and values may take there. Beyond that, those of the least recently used
    /// conversations are deleted. Their logs stay, from which they can be computed again.
    pub kv_bytes: u64,
}

/// A conversation that was found in the directory.
pub(crate) struct StoredConversation {
    pub(crate) id: ConversationId,
    pub(crate) log: TokenLog,
    /// How many of its first tokens have their keys and values in the directory.
    pub(crate) kv_positions: usize,
}

/// Work for the store's thread, done in order.
enum Job {
    Save {
        id: ConversationId,
        log: TokenLog,
        unchanged: usize,
        source: Option<KvSource>,
        cache: Option<KvCache>,
        then: Then,
    },
    Load {
        id: ConversationId,
        sequence: SequenceId,
        positions: usize,
        cache: KvCache,
    },
    Remove {
        id: ConversationId,
        then: Then,
    },
}

/// Called with what came of writing or deleting files.
type Then = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Figures that the store's thread publishes.
#[derive(Default)]
struct StoreStats {
    pending_bytes: AtomicUsize,
    kv_bytes: AtomicU64,
    failures: AtomicU64,
}

/// The step loop's handle of the store. Dropping it waits until everything is written.
pub(crate) struct Store {
    jobs: Option<Sender<Job>>,
    stats: Arc<StoreStats>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the directory, starts the thread, and returns the conversations that were found, the
    /// least recently used first. `restored` is called with each cache that was read back.
    ///
    /// # Errors
    /// The directory cannot be used, or the thread cannot be started.
    pub(crate) fn open(
        options: &StoreOptions,
        model: &Model,
        restored: impl Fn(SequenceId, KvCache) + Send + 'static,
    ) -> Result<(Self, Vec<StoredConversation>), StartError> {
        let (files, stored) = Files::open(options, model)?;
        let (jobs, inbox) = channel();
        let stats = Arc::new(StoreStats::default());
        stats.kv_bytes.store(files.kv_bytes(), Ordering::Relaxed);
        let worker = Worker {
            files,
            restored: Box::new(restored),
            stats: stats.clone(),
        };
        let thread = thread::Builder::new()
            .name("onegen-store".into())
            .spawn(move || worker.run(&inbox))
            .map_err(StartError::Thread)?;
        let store = Self {
            jobs: Some(jobs),
            stats,
            thread: Some(thread),
        };
        Ok((store, stored))
    }

    /// Writes the new part of a conversation and then calls `then`. It is an error if the log cannot be
    /// written. Without keys and values a conversation is only slower. A copy gets files of its own, so that it
    /// does not need its source any more.
    pub(crate) fn save(
        &self,
        id: &ConversationId,
        conversation: &mut Conversation,
        then: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let unchanged = conversation.stored;
        let source = conversation.kv_source.take();
        if let Some(source) = &source {
            conversation.stored = source.positions;
        }
        let cache = self.snapshot(conversation);
        if let Some(cache) = &cache {
            conversation.stored = cache.len();
            let bytes = cache.bytes();
            self.stats.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.send(Job::Save {
            id: id.clone(),
            log: conversation.log.clone(),
            unchanged,
            source,
            cache,
            then: Box::new(then),
        });
    }

    /// Reads a conversation's first `positions` back into a cache that has room for them; the cache
    /// is then handed to `restored`.
    pub(crate) fn load(
        &self,
        id: ConversationId,
        sequence: SequenceId,
        positions: usize,
        cache: KvCache,
    ) {
        self.send(Job::Load {
            id,
            sequence,
            positions,
            cache,
        });
    }

    /// Deletes a conversation's files and then calls `then`.
    pub(crate) fn remove(
        &self,
        id: ConversationId,
        then: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let then = Box::new(then);
        self.send(Job::Remove { id, then });
    }

    /// Bytes that keys and values take in the directory.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.stats.kv_bytes.load(Ordering::Relaxed)
    }

    /// How often something could not be written, read or deleted.
    pub(crate) fn failures(&self) -> u64 {
        self.stats.failures.load(Ordering::Relaxed)
    }

    /// The part of the cache that is to be written. On the CPU it shares the cache's blocks.
    fn snapshot(&self, conversation: &Conversation) -> Option<KvCache> {
        let cache = &conversation.cache;
        let pending = self.stats.pending_bytes.load(Ordering::Relaxed);
        if cache.len() <= conversation.stored || pending + cache.bytes() > MAX_PENDING_BYTES {
            return None;
        }
        // If the copy fails, only the log is written.
        cache.fork(cache.len()).ok()
    }

    fn send(&self, job: Job) {
        // The thread runs as long as this handle exists.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// The state of the store's thread.
struct Worker {
    files: Files,
    restored: Box<dyn Fn(SequenceId, KvCache) + Send>,
    stats: Arc<StoreStats>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        for job in inbox {
            self.work(job);
            self.stats
                .kv_bytes
                .store(self.files.kv_bytes(), Ordering::Relaxed);
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Save {
                id,
                log,
                unchanged,
                source,
                cache,
                then,
            } => {
                let saved =
                    (self.files).save(&id, &log, unchanged, source.as_ref(), cache.as_ref());
                let bytes = cache.map_or(0, |cache| cache.bytes());
                self.stats.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
                then(match saved {
                    Ok(kv_saved) => {
                        self.note("saved with its KV-cache", &id, kv_saved.as_ref());
                        Ok(())
                    }
                    Err(error) => {
                        self.note("saved", &id, Err(&error));
                        Err(error)
                    }
                });
            }
            Job::Load {
                id,
                sequence,
                positions,
                mut cache,
            } => {
                let loaded = self.files.load(&id, positions, &mut cache);
                self.note("restored", &id, loaded.as_ref());
                (self.restored)(sequence, cache);
            }
            Job::Remove { id, then } => {
                let removed = self.files.remove(&id);
                self.note("deleted", &id, removed.as_ref());
                then(removed);
            }
        }
    }

    /// Logs and counts a failure.
    fn note(&self, what: &str, id: &ConversationId, done: Result<&(), &io::Error>) {
        if let Err(error) = done {
            self.stats.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, conversation = %id, "a conversation could not be {what}");
        }
    }
}
