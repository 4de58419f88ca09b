//! The one who changes an open index: batches go to the log together, then searches see them.

#[cfg(unix)]
use std::fs::{self, Metadata};
use std::fs::{File, TryLockError};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::change::{self, Applied, Prepared};
use crate::error::IndexError;
use crate::log::Log;
use crate::manifest::Manifest;
use crate::segment::passages::IdDigest;
use crate::snapshot::Snapshot;

/// What searches see now. Held for as long as it takes to clone or to replace a pointer.
pub(crate) struct Current(RwLock<Arc<Snapshot>>);

impl Current {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(RwLock::new(Arc::new(snapshot)))
    }

    pub(crate) fn get(&self) -> Arc<Snapshot> {
        // Nobody can panic while holding it, so a poisoned lock guards a whole snapshot.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn replace(&self, snapshot: Snapshot) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = mem::replace(&mut *current, Arc::new(snapshot));
        drop(current);
        // Freeing what only the old one held can take a while; nobody waits for it.
        drop(old);
    }
}

/// Takes changes from any thread.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    queue: Mutex<Vec<Waiting>>,
    committer: Mutex<Committer>,
}

/// What only one thread at a time may do with an index.
pub(crate) struct Committer {
    /// As it stands on the disk.
    pub(crate) manifest: Manifest,
    /// The log that grows.
    pub(crate) log: Log,
    /// While a merge runs: every id that changed since it began.
    pub(crate) touched: Option<Vec<IdDigest>>,
    // Held until the index is closed.
    _lock: DirectoryLock,
}

/// A batch whose caller waits.
struct Waiting {
    changes: Vec<Prepared>,
    payload: Vec<u8>,
    answer: Arc<Mutex<Option<Result<Applied, IndexError>>>>,
}

impl Writer {
    pub(crate) fn new(dir: &Path, lock: DirectoryLock, manifest: Manifest, log: Log) -> Self {
        Self {
            dir: dir.into(),
            queue: Mutex::default(),
            committer: Mutex::new(Committer {
                manifest,
                log,
                touched: None,
                _lock: lock,
            }),
        }
    }

    pub(crate) fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a batch and comes back when it is on the disk and visible. Callers that wait for one
    /// another share one sync (group commit): whoever gets the lock commits for all in the queue.
    pub(crate) fn apply(
        &self,
        current: &Current,
        changes: Vec<Prepared>,
    ) -> Result<Applied, IndexError> {
        let payload = change::encode(&changes)?;
        let answer = Arc::new(Mutex::new(None));
        lock(&self.queue).push(Waiting {
            changes,
            payload,
            answer: answer.clone(),
        });
        let mut committer = self.committer();
        if let Some(answer) = lock(&answer).take() {
            return answer;
        }
        let batch = mem::take(&mut *lock(&self.queue));
        committer.commit(current, batch);
        drop(committer);
        lock(&answer).take().unwrap_or_else(|| {
            let source = std::io::Error::other("the batch was lost");
            Err(IndexError::io("change", &self.dir)(source))
        })
    }
}

impl Committer {
    fn commit(&mut self, current: &Current, batch: Vec<Waiting>) {
        let mut next = Snapshot::clone(&current.get());
        let mut touched = Vec::new();
        let mut payloads = Vec::new();
        let mut accepted = Vec::new();
        for waiting in batch {
            let before = waiting.can_fail().then(|| next.clone());
            let touched_before = touched.len();
            match next.apply(&waiting.changes, |id| touched.push(id)) {
                Ok(applied) => {
                    payloads.push(waiting.payload);
                    accepted.push((waiting.answer, applied));
                }
                Err(error) => {
                    *lock(&waiting.answer) = Some(Err(error));
                    next = before.unwrap_or(next);
                    touched.truncate(touched_before);
                }
            }
        }
        let written = self.log.append(&payloads).map_err(Arc::new);
        if written.is_ok() {
            if let Some(all) = &mut self.touched {
                all.extend(touched);
            }
            current.replace(next);
        }
        for (answer, applied) in accepted {
            *lock(&answer) = Some(match &written {
                Ok(()) => Ok(applied),
                Err(error) => Err(IndexError::NotApplied(error.clone())),
            });
        }
    }
}

impl Waiting {
    /// Whether applying it reads files, which may turn out to be damaged.
    fn can_fail(&self) -> bool {
        let reads = |change: &_| matches!(change, Prepared::DeleteDocument(_));
        self.changes.iter().any(reads)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced whole, so a poisoned lock guards something whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file by which writers exclude one another.
pub(crate) const LOCK_FILE: &str = "writer.lock";

/// Keeps other writers out of a directory until it is dropped.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file would do only where no process that was just started still has it.
        let _ = self.0.unlock();
    }
}

/// Locks a directory against other writers.
pub(crate) fn lock_directory(dir: &Path) -> Result<DirectoryLock, IndexError> {
    let path = dir.join(LOCK_FILE);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(IndexError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) if stands_at(&file, &path) => return Ok(DirectoryLock(file)),
            // A build has replaced the whole directory since the file was opened.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IndexError::Locked { dir: dir.into() }),
            Err(TryLockError::Error(error)) => return Err(IndexError::io("lock", &path)(error)),
        }
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn stands_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (opened, standing) = (file.metadata().map(place), fs::metadata(path).map(place));
    opened.is_ok_and(|opened| standing.is_ok_and(|standing| opened == standing))
}

#[cfg(not(unix))]
fn stands_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{BuildOptions, IndexBuilder};
    use crate::change::Change;
    use crate::delta::Delta;
    use crate::filter::bitset::Bitset;
    use crate::manifest::Fingerprints;
    use crate::segment::passages::{Part, Passage};
    use crate::segment::{Segment, directory_name};
    use crate::snapshot::LiveSegment;

    #[cfg(unix)]
    #[test]
    fn a_lock_in_a_directory_that_was_replaced_is_no_lock() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(LOCK_FILE);
        let lock = lock_directory(home.path()).unwrap();
        assert!(stands_at(&lock.0, &path));
        fs::rename(&path, home.path().join("aside")).unwrap();
        assert!(!stands_at(&lock.0, &path));
        let _other = lock_directory(home.path()).unwrap();
        assert!(!stands_at(&lock.0, &path));
    }

    #[test]
    fn a_lock_ends_with_its_holder_although_another_process_inherited_the_file() {
        let home = tempfile::tempdir().unwrap();
        let lock = lock_directory(home.path()).unwrap();
        let _inherited = lock.0.try_clone().unwrap();
        assert!(lock_directory(home.path()).is_err());
        drop(lock);
        lock_directory(home.path()).unwrap();
    }

    #[test]
    fn a_batch_that_could_not_be_applied_touches_nothing_of_a_merge() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let fingerprints = Fingerprints {
            name: String::new(),
            model: String::new(),
            tokenizer: String::new(),
            template: String::new(),
        };
        let mut builder = IndexBuilder::create(&dir, BuildOptions::new(1, fingerprints)).unwrap();
        let document = String::from("document");
        let passage = Passage {
            id: "a".into(),
            title: String::new(),
            text: String::new(),
            url: None,
            metadata: None,
            part: Some(Part {
                document: document.clone(),
                start: 0,
                end: 0,
            }),
        };
        builder.add(&passage, &[[1.0]]).unwrap();
        let manifest = builder.finish().unwrap();
        let record = manifest.segments[0].clone();
        let lines = dir
            .join(directory_name(record.number))
            .join("passages.jsonl");
        let length = fs::metadata(&lines).unwrap().len() as usize;
        fs::write(&lines, vec![b' '; length]).unwrap();
        let segment = Segment::open(&dir, record, 1).unwrap();
        let current = Current::new(Snapshot {
            segments: vec![LiveSegment::new(Arc::new(segment), Bitset::new(1))],
            delta: Arc::new(Delta::default()),
            dimension: 1,
        });
        let log = Log::create(&dir, &manifest.index_id, 9).unwrap();
        let writer = Writer::new(&dir, lock_directory(&dir).unwrap(), manifest, log);
        writer.committer().touched = Some(Vec::new());

        let delete = Change::Delete { id: "b".into() };
        let unreadable = Change::DeleteDocument { id: document };
        let changes = [delete.clone(), unreadable].map(|change| change.prepare(1).unwrap());
        assert!(writer.apply(&current, changes.into()).is_err());
        assert_eq!(writer.committer().touched.as_deref(), Some(&[][..]));
        let delete = delete.prepare(1).unwrap();
        writer.apply(&current, vec![delete]).unwrap();
        let committer = writer.committer();
        assert_eq!(committer.touched.as_ref().map(Vec::len), Some(1));
    }
}
