//! An open index: searched by many, changed by one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::{DocumentRules, VectorsPer};
use crate::format::lock::lock_directory;
use crate::format::log::Log;
use crate::format::manifest::{MANIFEST_FILE, Manifest};
use crate::live::background::background_pool;
use crate::live::change::{Change, ChangeCounts};
use crate::live::current::Current;
use crate::live::delta_options::DeltaOptions;
use crate::live::grower::Grower;
use crate::live::hit::{Hit, SearchOptions};
use crate::live::merge::{self, Merger};
use crate::live::open::{load, remove_leftovers};
use crate::live::snapshot::Snapshot;
use crate::live::stats::Stats;
use crate::live::writer::Writer;
use crate::segment::FinishOptions;
use crate::segment::passages::Passage;

/// How long after a merge has failed another is tried: a full disk may have room again.
const MERGE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// An open index. Shared between threads by reference; its files are mapped, not read.
pub struct Index {
    shared: Arc<Shared>,
    merging: Mutex<Option<JoinHandle<()>>>,
    // Only in an index that was opened for changes.
    grower: Option<Grower>,
}

struct Shared {
    dir: PathBuf,
    manifest: Manifest,
    current: Current,
    // Only in an index that was opened for changes.
    writer: Option<Writer>,
    delta: DeltaOptions,
    stop: AtomicBool,
    // Held by the one merge that may run.
    merge: Mutex<()>,
    // When a merge beside everything else failed. None is started again for a while, or until one that was
    // asked for succeeds.
    merge_failed: Mutex<Option<Instant>>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = f.debug_struct("Index");
        index
            .field("dir", &self.shared.dir)
            .field("manifest", &self.shared.manifest);
        index.finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index in `dir` to search it as it stands now; others may change it meanwhile.
    ///
    /// The files that a search begins with are verified at once, the others a block at a time when
    /// they are first read. A graph that is missing or damaged is left out, with a warning in the
    /// log: its segment is scanned, which finds the same and takes longer.
    ///
    /// # Errors
    /// Each names the file: [`IndexError::NotAnIndex`], [`IndexError::Version`],
    /// [`IndexError::Length`], [`IndexError::ChecksumMismatch`], [`IndexError::Damaged`],
    /// [`IndexError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, IndexError> {
        let dir = dir.as_ref();
        let mut manifest = Manifest::read(dir)?;
        let snapshot = loop {
            match load(dir, &manifest, usize::MAX) {
                Ok((snapshot, _)) => break snapshot,
                // A merge of another process may have replaced the files between two reads.
                Err(error) => {
                    let now = Manifest::read(dir)?;
                    if now == manifest {
                        return Err(error);
                    }
                    manifest = now;
                }
            }
        };
        Ok(Self::new(dir, manifest, snapshot, None))
    }

    /// Opens the index in `dir` to search and to change it, which only one may do at a time.
    ///
    /// # Errors
    /// As [`Index::open`], and [`IndexError::Locked`].
    pub fn open_for_changes(dir: impl AsRef<Path>) -> Result<Self, IndexError> {
        Self::open_for_changes_with_delta(dir.as_ref(), DeltaOptions::default())
    }

    /// [`Index::open_for_changes`], with the number of vectors from which on the changes in memory
    /// become a segment; the default is [`crate::DELTA_VECTORS`].
    ///
    /// # Errors
    /// As [`Index::open_for_changes`].
    pub fn open_for_changes_with(dir: &Path, delta_vectors: usize) -> Result<Self, IndexError> {
        let delta = DeltaOptions {
            merge_from: delta_vectors,
            ..DeltaOptions::default()
        };
        Self::open_for_changes_with_delta(dir, delta)
    }

    /// [`Index::open_for_changes`], with the numbers of vectors from which on the changes in memory get
    /// a graph and become a segment.
    ///
    /// # Errors
    /// As [`Index::open_for_changes`].
    pub fn open_for_changes_with_delta(
        dir: &Path,
        delta: DeltaOptions,
    ) -> Result<Self, IndexError> {
        // Before the lock's file is made in it.
        Manifest::read(dir)?;
        let lock = lock_directory(dir)?;
        let manifest = Manifest::read(dir)?;
        let (snapshot, replay) = load(dir, &manifest, delta.graph_from)?;
        remove_leftovers(dir, &manifest)?;
        let (number, replay) = replay.ok_or_else(|| {
            IndexError::damaged(&dir.join(MANIFEST_FILE), "it names no log of changes")
        })?;
        let log = Log::go_on(dir, &manifest.index_id, number, &replay)?;
        let writer = Writer::new(dir, lock, manifest.clone(), log);
        let index = Self::new(dir, manifest, snapshot, Some((writer, delta)));
        index.grow_graph();
        index.merge_if_due();
        Ok(index)
    }

    fn new(
        dir: &Path,
        manifest: Manifest,
        snapshot: Snapshot,
        writer: Option<(Writer, DeltaOptions)>,
    ) -> Self {
        let (writer, delta) = writer.unzip();
        let shared = Arc::new(Shared {
            dir: dir.into(),
            manifest,
            current: Current::new(snapshot),
            writer,
            delta: delta.unwrap_or_default(),
            stop: AtomicBool::new(false),
            merge: Mutex::default(),
            merge_failed: Mutex::default(),
        });
        let grower = shared.writer.as_ref().and_then(|_| {
            let shared = shared.clone();
            Grower::start(move || {
                !shared.stop.load(Ordering::Relaxed) && shared.current.get().delta.grow_graph()
            })
        });
        Self {
            shared,
            merging: Mutex::default(),
            grower,
        }
    }

    /// The directory that was opened.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Whether it was opened to be searched only.
    pub fn is_read_only(&self) -> bool {
        self.shared.writer.is_none()
    }

    /// What made the vectors.
    pub fn fingerprints(&self) -> &Fingerprints {
        &self.shared.manifest.fingerprints
    }

    /// The manifest as it was when the index was opened.
    pub fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    /// How documents become passages and vectors here. Where that was not noted, the default, with the
    /// vectors that there are.
    pub fn document_rules(&self) -> DocumentRules {
        let manifest = self.manifest();
        let several = manifest.segments.iter().any(|s| s.vectors > s.passages);
        manifest.documents.unwrap_or(DocumentRules {
            vectors: if several {
                VectorsPer::Sentence
            } else {
                VectorsPer::Passage
            },
            ..DocumentRules::default()
        })
    }

    /// Fails unless `model` made this index's vectors.
    ///
    /// # Errors
    /// [`IndexError::FingerprintMismatch`] names both.
    pub fn check_fingerprints(&self, model: &Fingerprints) -> Result<(), IndexError> {
        IndexError::unless_comparable(self.fingerprints(), model)
    }

    /// Number of passages.
    pub fn passages(&self) -> u64 {
        self.shared.current.get().passages()
    }

    /// What the index holds.
    pub fn stats(&self) -> Stats {
        Stats::new(&self.shared.current.get(), &self.shared.dir)
    }

    /// The passage with an id, if there is one.
    ///
    /// # Errors
    /// [`IndexError::ChecksumMismatch`] or [`IndexError::Damaged`] if it cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        self.shared.current.get().get(id)
    }

    /// The keys and values that were kept with the passage of an id when the index was built, if any were. Those
    /// of a passage that has changed since are not given.
    ///
    /// # Errors
    /// As [`Index::get`].
    pub fn passage_kv(&self, id: &str) -> Result<Option<Vec<u8>>, IndexError> {
        self.shared.current.get().passage_kv(id)
    }

    /// The passages of the document with an id: the one that has it, or those that were cut from it,
    /// in the document's order. None if there is no such document.
    ///
    /// # Errors
    /// As [`Index::get`].
    pub fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        self.shared.current.get().document(id)
    }

    /// The `k` passages nearest to a query embedding of any length, each once, by its best vector:
    /// those whose metadata fits the filter and whose score is at least the minimum. Best first; of
    /// equal scores the one that was put in earlier first.
    ///
    /// # Errors
    /// [`IndexError::Dimension`] or [`IndexError::NoDirection`] for a query that cannot be compared,
    /// [`IndexError::ChecksumMismatch`] for a file that turns out to be damaged.
    pub fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        self.shared.current.get().search(query, options)
    }

    /// All passages with their unit vectors, in the order in which they were put in, as they stand
    /// now whatever changes meanwhile. Stops at the first error.
    ///
    /// # Errors
    /// Those of reading, and what `each` returns.
    pub fn for_each<E: From<IndexError>>(
        &self,
        each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.shared.current.get().for_each(each)
    }

    /// Makes a batch of changes, all of them or none, in order. When this returns they are on the
    /// disk and every search that begins sees them. Callable from many threads at once, which then
    /// share the waiting for the disk.
    ///
    /// # Errors
    /// [`IndexError::NoVector`], [`IndexError::Dimension`], [`IndexError::NoDirection`] for a passage
    /// that cannot be searched, [`IndexError::ReadOnly`], and [`IndexError::NotApplied`] if the disk
    /// refuses; nothing was changed then.
    pub fn apply(&self, changes: Vec<Change>) -> Result<ChangeCounts, IndexError> {
        let writer = self.writer()?;
        let dimension = self.shared.manifest.dimension as usize;
        let prepared = changes
            .into_iter()
            .map(|change| change.prepare(dimension))
            .collect::<Result<_, _>>()?;
        let applied = writer.apply(&self.shared.current, prepared)?;
        self.grow_graph();
        self.merge_if_due();
        Ok(applied)
    }

    /// Writes all that there is as one segment with a new graph, without what was deleted. Searches
    /// and changes go on meanwhile.
    ///
    /// # Errors
    /// [`IndexError::ReadOnly`], and those of reading and writing; the index is then as it was.
    pub fn compact(&self) -> Result<(), IndexError> {
        let writer = self.writer()?;
        self.shared.merge_from(writer, |_| Some(0))
    }

    /// Waits for the merge that runs beside, if one does, and merges what is due.
    ///
    /// # Errors
    /// As [`Index::compact`].
    pub fn settle(&self) -> Result<(), IndexError> {
        let writer = self.writer()?;
        let shared = &self.shared;
        shared.merge_from(writer, |snapshot| shared.due(snapshot))
    }

    fn writer(&self) -> Result<&Writer, IndexError> {
        let dir = || self.shared.dir.clone();
        self.shared
            .writer
            .as_ref()
            .ok_or_else(|| IndexError::ReadOnly { dir: dir() })
    }

    /// Has the thread beside everything else insert into the delta's graph what that lacks.
    fn grow_graph(&self) {
        if let Some(grower) = &self.grower {
            grower.wake();
        }
    }

    /// Starts a merge beside everything else, unless one runs.
    fn merge_if_due(&self) {
        let failed = *self.shared.merge_failed.lock();
        let waits = failed.is_some_and(|at| at.elapsed() < MERGE_AGAIN_AFTER);
        if waits || self.shared.due(&self.shared.current.get()).is_none() {
            return;
        }
        let mut merging = self.merging.lock();
        if merging.as_ref().is_some_and(|merge| !merge.is_finished()) {
            return;
        }
        let shared = self.shared.clone();
        let merge = move || {
            let Some(writer) = &shared.writer else { return };
            match shared.merge_from(writer, |snapshot| shared.due(snapshot)) {
                Ok(()) | Err(IndexError::Closed) => {}
                Err(error) => {
                    *shared.merge_failed.lock() = Some(Instant::now());
                    tracing::error!(%error, "changes stay in the log, since they cannot be merged");
                }
            }
        };
        let thread = thread::Builder::new().name("onegen-index-merge".into());
        match thread.spawn(merge) {
            Ok(handle) => *merging = Some(handle),
            Err(error) => tracing::error!(%error, "no thread to merge changes"),
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.grower = None;
        if let Some(merge) = self.merging.get_mut().take() {
            // It logs its own failure.
            let _ = merge.join();
        }
        if let Some(writer) = &self.shared.writer {
            // For the acknowledged length only, which nobody waits for.
            let _ = writer.committer().log.sync();
        }
    }
}

impl Shared {
    fn due(&self, snapshot: &Snapshot) -> Option<usize> {
        merge::due(snapshot, self.delta.merge_from)
    }

    /// Merges the segments from the one that `from` names on, if it names one.
    fn merge_from(
        &self,
        writer: &Writer,
        from: impl Fn(&Snapshot) -> Option<usize>,
    ) -> Result<(), IndexError> {
        let _one = self.merge.lock();
        let Some(from) = from(&self.current.get()) else {
            return Ok(());
        };
        let merger = Merger {
            writer,
            current: &self.current,
            options: FinishOptions {
                graph: self.manifest.graph,
                exact_scan_limit: self.manifest.exact_scan_limit,
            },
            stop: &self.stop,
        };
        // Not in the pool that searches share: they would wait for the merge's own work there.
        match background_pool() {
            Ok(pool) => pool.install(|| merger.merge(from))?,
            Err(error) => {
                tracing::warn!(%error, "no threads for a merge: it runs on those of searches");
                merger.merge(from)?;
            }
        }
        *self.merge_failed.lock() = None;
        Ok(())
    }
}
