//! The one who changes an open index: batches go to the log together, then searches see them.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::error::IndexError;
use crate::format::lock::DirectoryLock;
use crate::format::log::Log;
use crate::format::manifest::Manifest;
use crate::live::change::{self, ChangeCounts, CheckedChange};
use crate::live::current::Current;
use crate::live::snapshot::Snapshot;
use crate::segment::passages::IdDigest;

/// Takes changes from any thread.
pub(crate) struct Writer {
    pub(crate) dir: PathBuf,
    queue: Mutex<Vec<QueuedBatch>>,
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
struct QueuedBatch {
    changes: Vec<CheckedChange>,
    payload: Vec<u8>,
    answer: Arc<Mutex<Option<Result<ChangeCounts, IndexError>>>>,
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
        self.committer.lock()
    }

    /// Applies a batch and comes back when it is on the disk and visible. Callers that wait for one
    /// another share one sync (group commit): whoever gets the lock commits for all in the queue.
    pub(crate) fn apply(
        &self,
        current: &Current,
        changes: Vec<CheckedChange>,
    ) -> Result<ChangeCounts, IndexError> {
        let payload = change::encode(&changes)?;
        let answer = Arc::new(Mutex::new(None));
        self.queue.lock().push(QueuedBatch {
            changes,
            payload,
            answer: answer.clone(),
        });
        let mut committer = self.committer();
        if let Some(answer) = answer.lock().take() {
            return answer;
        }
        let batch = mem::take(&mut *self.queue.lock());
        committer.commit(current, batch);
        drop(committer);
        answer.lock().take().unwrap_or_else(|| {
            let source = std::io::Error::other("the batch was lost");
            Err(IndexError::io("change", &self.dir)(source))
        })
    }
}

impl Committer {
    fn commit(&mut self, current: &Current, batch: Vec<QueuedBatch>) {
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
                    *waiting.answer.lock() = Some(Err(error));
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
            *answer.lock() = Some(match &written {
                Ok(()) => Ok(applied),
                Err(error) => Err(IndexError::NotApplied(error.clone())),
            });
        }
    }
}

impl QueuedBatch {
    /// Whether applying it reads files, which may turn out to be damaged.
    fn can_fail(&self) -> bool {
        let reads = |change: &_| matches!(change, CheckedChange::DeleteDocument(_));
        self.changes.iter().any(reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::builder::{BuildOptions, IndexBuilder};
    use crate::filter::bitset::Bitset;
    use crate::format::lock::lock_directory;
    use crate::live::change::Change;
    use crate::live::delta::Delta;
    use crate::live::live_segment::LiveSegment;
    use crate::segment::passages::{Part, Passage};
    use crate::segment::{Segment, directory_name};
    use crate::testing::fingerprints;
    use std::fs;

    #[test]
    fn a_batch_that_could_not_be_applied_touches_nothing_of_a_merge() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("index");
        let fingerprints = fingerprints("m");
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
            delta: Arc::new(Delta::new(1, usize::MAX)),
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
