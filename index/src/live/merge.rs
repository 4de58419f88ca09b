//! Merging: the delta and the newest segments become one segment, while searches and changes go on.
//!
//! 1. *Freeze*, under the writer's lock: a new log begins, so that the old ones hold exactly what the
//!    snapshot of this moment holds.
//! 2. *Write*, beside everything else: the live passages of that snapshot, from a segment on, are
//!    written as one new segment, with a new graph.
//! 3. *Swap*, under the lock again: what changed meanwhile is deleted from the new segment (the delta
//!    has it newer, or it is gone), the manifest that names the new files replaces the old one, and
//!    searches that begin from now on see it.
//!
//! A crash at any moment leaves a manifest whose files are all there; files that it does not name are
//! removed when the index is next opened for changes.

use std::fs;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::IndexError;
use crate::filter::bitset::Bitset;
use crate::format::log::{self, Log};
use crate::format::manifest::{Manifest, SegmentRecord, TombstoneRecord};
use crate::format::tracked;
use crate::live::current::Current;
use crate::live::live_segment::LiveSegment;
use crate::live::snapshot::Snapshot;
use crate::live::writer::Writer;
use crate::segment::tombstones;
use crate::segment::{self, FinishOptions, Segment, SegmentWriter};

/// What merges need to know.
pub(crate) struct Merger<'i> {
    pub(crate) writer: &'i Writer,
    pub(crate) current: &'i Current,
    pub(crate) options: FinishOptions,
    /// Set when the index is closed: a merge then gives up.
    pub(crate) stop: &'i AtomicBool,
}

/// What a merge began with.
struct MergeInput {
    snapshot: Arc<Snapshot>,
    /// Number of the new segment.
    segment: u64,
    /// Number of the log that follows it.
    log: u64,
}

/// The first segment that ought to be merged with all after it and with the delta, if any ought to.
///
/// A delta that has grown becomes a segment, together with the segments before it that are not twice
/// as large as what they are merged with: so there are never more than about log2(n) of them, and a
/// passage is written about log2(n) times. A segment is also written anew when its graph is damaged
/// or most of it is deleted.
pub(crate) fn due(snapshot: &Snapshot, delta_vectors: usize) -> Option<usize> {
    let worn = snapshot.segments.iter().position(|live| {
        let deletions = live.deletions;
        live.segment.graph_damage().is_some() || (deletions > 1024 && deletions > live.passages())
    });
    // Passages that were replaced while they were in the delta still take memory and stand in the log.
    let vectors = snapshot.delta.numbers() / snapshot.dimension.max(1);
    if worn.is_none() && vectors.max(snapshot.delta.rows()) < delta_vectors {
        return None;
    }
    let mut from = worn.unwrap_or(snapshot.segments.len());
    let mut merged: u64 = snapshot.delta.passages() as u64;
    let after = &snapshot.segments[from..];
    merged += after.iter().map(|s| u64::from(s.passages())).sum::<u64>();
    while from > 0 && u64::from(snapshot.segments[from - 1].passages()) < 2 * merged {
        from -= 1;
        merged += u64::from(snapshot.segments[from].passages());
    }
    Some(from)
}

impl Merger<'_> {
    /// Merges the segments from `from` on and the delta into one. Only one merge runs at a time: the
    /// caller sees to that. If it fails, the index is as it was.
    pub(crate) fn merge(&self, from: usize) -> Result<(), IndexError> {
        let frozen = self.freeze()?;
        let new_dir = self
            .writer
            .dir
            .join(segment::directory_name(frozen.segment));
        let merged = match self.write(&frozen, from, &new_dir) {
            Ok((segment, tombstones)) => {
                let swapped = self.swap(&frozen, from, segment, tombstones);
                swapped.inspect_err(|_| {
                    let names =
                        |m: &Manifest| m.segments.iter().any(|s| s.number == frozen.segment);
                    if self.is_unneeded(names) {
                        remove_unfinished(&new_dir);
                    }
                })
            }
            Err(error) => {
                remove_unfinished(&new_dir);
                Err(error)
            }
        };
        if merged.is_err() {
            self.writer.committer().touched = None;
        }
        merged
    }

    fn freeze(&self) -> Result<MergeInput, IndexError> {
        let mut committer = self.writer.committer();
        let segment = committer.manifest.take_number();
        let number = committer.manifest.take_number();
        let log = Log::create(&self.writer.dir, &committer.manifest.index_id, number)?;
        let mut manifest = committer.manifest.clone();
        manifest.logs.push(number);
        // The end of the old log must be known to the disk before another one follows it.
        let begun = committer.log.sync();
        let begun = begun.and_then(|()| manifest.write(&self.writer.dir));
        begun.inspect_err(|_| {
            if self.is_unneeded(|manifest| manifest.logs.contains(&number)) {
                // What stays is removed when the index is next opened.
                let _ = fs::remove_file(log::path(&self.writer.dir, number));
            }
        })?;
        committer.manifest = manifest;
        committer.log = log;
        committer.touched = Some(Vec::new());
        // What comes from now on outlives this merge, so it gets a graph of its own.
        let mut next = Snapshot::clone(&self.current.get());
        Arc::make_mut(&mut next.delta).begin_part();
        self.current.replace(next);
        Ok(MergeInput {
            snapshot: self.current.get(),
            segment,
            log: number,
        })
    }

    /// Writes the new segment, unless nothing is left for it, and the tombstones of the segments that
    /// stay.
    fn write(
        &self,
        frozen: &MergeInput,
        from: usize,
        new_dir: &Path,
    ) -> Result<(Option<Segment>, Vec<Option<TombstoneRecord>>), IndexError> {
        let Snapshot {
            segments,
            delta,
            dimension,
        } = frozen.snapshot.as_ref();
        let dir = &self.writer.dir;
        let (staying, merged) = segments.split_at(from);
        let staying = staying
            .iter()
            .map(|live| self.write_tombstones(live))
            .collect::<Result<_, _>>()?;

        let keeps_kv = merged.iter().any(|live| live.segment.kv().is_some());
        let mut writer = SegmentWriter::create(new_dir.into(), *dimension, keeps_kv)?;
        for live in merged {
            for row in live.rows() {
                self.go_on()?;
                let passage = live.segment.passage(row)?;
                let (vectors, kv) = (live.segment.vectors_of(row)?, live.segment.kv_of(row)?);
                writer.push(&passage, &vectors, kv)?;
            }
        }
        for (_, entry) in delta.iter() {
            let vectors: Vec<_> = entry.vectors.chunks_exact(*dimension).collect();
            writer.push(&entry.passage, &vectors, None)?;
        }
        if writer.passages() == 0 {
            remove_unfinished(new_dir);
            return Ok((None, staying));
        }
        let record = writer.finish(frozen.segment, &self.options, |_| self.go_on().is_ok())?;
        self.go_on()?;
        // The names of the new files, before a manifest names them.
        tracked::sync_dir(dir)?;
        let segment = Segment::open(dir, record, *dimension)?;
        Ok((Some(segment), staying))
    }

    fn write_tombstones(&self, live: &LiveSegment) -> Result<Option<TombstoneRecord>, IndexError> {
        let mut committer = self.writer.committer();
        let mut records = committer.manifest.segments.iter();
        let number = live.segment.record().number;
        let known = records
            .find(|record| record.number == number)
            .and_then(|record| record.tombstones.clone());
        // Tombstones are only ever added, so as many are the same.
        if known.as_ref().map_or(0, |t| t.passages) == live.deletions {
            return Ok(known);
        }
        let number = committer.manifest.take_number();
        drop(committer);
        tombstones::write(&self.writer.dir, number, &live.deleted).map(Some)
    }

    fn swap(
        &self,
        frozen: &MergeInput,
        from: usize,
        segment: Option<Segment>,
        tombstones: Vec<Option<TombstoneRecord>>,
    ) -> Result<(), IndexError> {
        let mut committer = self.writer.committer();
        let now = self.current.get();
        let mut segments: Vec<LiveSegment> = now.segments[..from].to_vec();
        let mut records: Vec<SegmentRecord> = Vec::new();
        for (live, tombstones) in segments.iter().zip(tombstones) {
            records.push(SegmentRecord {
                tombstones,
                ..live.segment.record().clone()
            });
        }
        if let Some(segment) = segment {
            records.push(segment.record().clone());
            let none = Bitset::new(segment.record().passages as usize);
            let mut live = LiveSegment::new(Arc::new(segment), none);
            let touched = committer.touched.iter().flatten();
            for row in touched
                .filter_map(|id| live.segment.find(id))
                .collect::<Vec<_>>()
            {
                live.delete(row);
            }
            segments.push(live);
        }
        let mut delta = now.delta.as_ref().clone();
        delta.drop_before(frozen.snapshot.delta.rows());

        let mut manifest = committer.manifest.clone();
        let before = mem::replace(&mut manifest.segments, records);
        manifest.logs = vec![frozen.log];
        manifest.write(&self.writer.dir)?;
        let old_logs = mem::replace(&mut committer.manifest, manifest).logs;
        committer.touched = None;
        self.current.replace(Snapshot {
            segments,
            delta: Arc::new(delta),
            dimension: now.dimension,
        });
        let staying = committer.manifest.segments.clone();
        drop(committer);
        self.remove(&old_logs, frozen.log, &before, &staying);
        Ok(())
    }

    /// Removes the files that the new manifest does not name. Searches that still read them keep
    /// them open; what cannot be removed now is removed when the index is next opened.
    fn remove(
        &self,
        logs: &[u64],
        current_log: u64,
        before: &[SegmentRecord],
        staying: &[SegmentRecord],
    ) {
        let dir = &self.writer.dir;
        let mut failed = Vec::new();
        for &number in logs.iter().filter(|&&number| number != current_log) {
            failed.extend(fs::remove_file(log::path(dir, number)).err());
        }
        for old in before {
            let new = staying.iter().find(|s| s.number == old.number);
            if new.is_none() {
                let segment = dir.join(segment::directory_name(old.number));
                failed.extend(fs::remove_dir_all(segment).err());
            }
            if let Some(tombstones) = &old.tombstones
                && new.and_then(|s| s.tombstones.as_ref()) != Some(tombstones)
            {
                let path = tombstones::path(dir, tombstones.number);
                failed.extend(fs::remove_file(path).err());
            }
        }
        for error in failed {
            tracing::warn!(%error, dir = %dir.display(), "a file that is no longer needed stays");
        }
    }

    /// Whether the manifest that stands on the disk does not name something. Replacing it can fail
    /// when it was replaced already, so only the disk knows.
    fn is_unneeded(&self, names: impl Fn(&Manifest) -> bool) -> bool {
        Manifest::read(&self.writer.dir).is_ok_and(|manifest| !names(&manifest))
    }

    fn go_on(&self) -> Result<(), IndexError> {
        if self.stop.load(Ordering::Relaxed) {
            Err(IndexError::Closed)
        } else {
            Ok(())
        }
    }
}

fn remove_unfinished(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!(%error, dir = %dir.display(), "an unfinished segment could not be deleted");
    }
}
