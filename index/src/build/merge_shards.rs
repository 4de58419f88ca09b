//! Indexes of parts of a corpus become one index. Nothing is embedded or linked again: the segments stay as they are.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build::staging::Staging;
use crate::error::IndexError;
use crate::filter::bitset::Bitset;
use crate::format::log::Log;
use crate::format::manifest::{Manifest, SegmentRecord};
use crate::format::tracked::{self, BLOCKS};
use crate::live::live_segment::LiveSegment;
use crate::live::open::load;
use crate::segment::passages::{IdDigest, digest};
use crate::segment::{self, tombstones};

/// Joins indexes into a new one at `out`, in the order of their parts if they are parts of a corpus
/// ([`crate::Corpus::only`]), and in the given order otherwise. What a search then finds by an exact scan is what it
/// finds in an index of the whole corpus; [`crate::Index::compact`] makes one segment of it, whose files equal those
/// of a build in one go.
///
/// Files are hard links where the file system has them, and copies otherwise. Where two of the indexes hold a
/// document or a passage of the same id, the first one stays. An index at `out` is replaced when the new one is whole.
///
/// # Errors
/// [`IndexError::NotMergeable`] names the first index that does not belong to the others: another model, width or
/// rules for documents, changes that are in no segment yet, a part that is missing or there twice. Those of opening an
/// index, and [`IndexError::NotReplaceable`], [`IndexError::Locked`] and [`IndexError::Io`] for `out`.
pub fn merge_shards(out: &Path, shards: &[PathBuf]) -> Result<Manifest, IndexError> {
    let mut opened = Vec::new();
    for dir in shards {
        let manifest = Manifest::read(dir)?;
        opened.push((dir.as_path(), manifest));
    }
    let first = in_order(out, &mut opened)?;
    let staging = Staging::begin(out)?;
    staging.clear_except(&[])?;
    let mut manifest = Manifest::new(
        first.dimension,
        first.fingerprints,
        first.graph,
        first.exact_scan_limit,
    );
    manifest.documents = first.documents;
    manifest.passage_kv = first.passage_kv;
    let mut known = KnownIds::default();
    for (dir, shard) in &opened {
        let (snapshot, _) = load(dir, shard, usize::MAX)?;
        if snapshot.delta.passages() > 0 {
            let command = format!("run `onegen-index compact {}` first", dir.display());
            let reason = format!("it holds changes that are in no segment yet; {command}");
            return Err(not_mergeable(dir, reason));
        }
        let mut segments = snapshot.segments;
        for live in &mut segments {
            known.hide_repeated(live);
            let record = adopt(live, staging.path(), &mut manifest)?;
            manifest.segments.push(record);
        }
        segments.iter().for_each(|live| known.add(live));
    }
    let log = manifest.take_number();
    Log::create(staging.path(), &manifest.index_id, log)?;
    manifest.logs.push(log);
    manifest.write(staging.path())?;
    staging.publish(&[])?;
    Ok(manifest)
}

/// Sorts the parts of a corpus and checks that all belong together. Returns what they have in common.
fn in_order(out: &Path, opened: &mut [(&Path, Manifest)]) -> Result<Manifest, IndexError> {
    opened.sort_by_key(|(_, manifest)| manifest.shard.map(|shard| shard.number()));
    let Some((_, first)) = opened.first().cloned() else {
        return Err(not_mergeable(out, "no index is given"));
    };
    for (dir, manifest) in opened.iter() {
        let differs = first.fingerprints.differences(&manifest.fingerprints);
        let reason = if !differs.is_empty() {
            let (own, others) = (&manifest.fingerprints, &first.fingerprints);
            let differs = differs.join(", ");
            format!("it was built by {own}, the others by {others}: {differs} differ")
        } else if manifest.dimension != first.dimension {
            let (own, others) = (manifest.dimension, first.dimension);
            format!("its vectors have {own} dimensions, those of the others {others}")
        } else if manifest.documents != first.documents {
            "its documents were split by other rules; build it with the same options".into()
        } else if manifest.passage_kv != first.passage_kv {
            "its passages' keys and values were kept otherwise; build it with the same options"
                .into()
        } else {
            continue;
        };
        return Err(not_mergeable(dir, reason));
    }
    check_parts(opened)?;
    Ok(first)
}

/// Fails unless sorted indexes are all parts of one corpus, or none of them is a part.
fn check_parts(opened: &[(&Path, Manifest)]) -> Result<(), IndexError> {
    let mut parts = Vec::new();
    for (dir, manifest) in opened {
        match manifest.shard {
            Some(shard) => parts.push((*dir, shard)),
            // Those that are no parts come first.
            None => continue,
        }
    }
    let Some(&(dir, last)) = parts.last() else {
        return Ok(());
    };
    if parts.len() < opened.len() {
        let reason = format!("it is part {last} of a corpus, and not all of the others are parts");
        return Err(not_mergeable(dir, reason));
    }
    let missing = |dir, number| {
        let reason = format!("part {number}/{} of its corpus is not given", last.of());
        Err(not_mergeable(dir, reason))
    };
    for (expected, &(dir, shard)) in (1..).zip(&parts) {
        if shard.of() != last.of() {
            let reason = format!("it is part {shard} of a corpus, others are like part {last}");
            return Err(not_mergeable(dir, reason));
        }
        match shard.number().cmp(&expected) {
            Ordering::Less => {
                return Err(not_mergeable(dir, format!("part {shard} is given twice")));
            }
            Ordering::Equal => {}
            Ordering::Greater => return missing(dir, expected),
        }
    }
    if last.number() < last.of() {
        return missing(dir, last.number() + 1);
    }
    Ok(())
}

/// Gives a segment a name in `dir`, and its tombstones too if it has any.
fn adopt(
    live: &LiveSegment,
    dir: &Path,
    manifest: &mut Manifest,
) -> Result<SegmentRecord, IndexError> {
    let record = live.segment.record();
    let number = manifest.take_number();
    let target = dir.join(segment::directory_name(number));
    fs::create_dir(&target).map_err(IndexError::io("create", &target))?;
    for name in record.files.keys().map(String::as_str).chain([BLOCKS]) {
        link_or_copy(&live.segment.dir().join(name), &target.join(name))?;
    }
    tracked::sync_dir(&target)?;
    let tombstones = (live.deletions > 0)
        .then(|| tombstones::write(dir, manifest.take_number(), &live.deleted))
        .transpose()?;
    Ok(SegmentRecord {
        number,
        tombstones,
        ..record.clone()
    })
}

/// A segment's files never change, so two indexes may share them.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), IndexError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map_err(IndexError::io("copy", from))?;
    let copied = fs::File::open(to).and_then(|file| file.sync_all());
    copied.map_err(IndexError::io("sync", to))
}

/// The ids of passages and documents in the indexes so far.
#[derive(Default)]
struct KnownIds {
    /// Whether the id is one of a document; if not, it is only one of a passage.
    is_document: HashMap<IdDigest, bool>,
}

impl KnownIds {
    /// Deletes what is there already: passages of a known id, and all passages of a known document.
    fn hide_repeated(&self, live: &mut LiveSegment) {
        let mut repeated = Bitset::new(live.segment.record().passages as usize);
        for (id, row) in live.segment.ids() {
            if self.is_document.contains_key(&id) {
                repeated.set(row);
            }
        }
        for (document, rows) in live.segment.split_documents() {
            if self.is_document.get(&digest(document)) == Some(&true) {
                rows.for_each(|row| repeated.set(row));
            }
        }
        repeated.and_not(&live.deleted);
        for row in (0..live.segment.record().passages).filter(|&row| repeated.test(row)) {
            tracing::warn!(
                segment = %live.segment.dir().display(), row,
                "a passage is left out, since its id or its document's is there already"
            );
            live.delete(row);
        }
    }

    fn add(&mut self, live: &LiveSegment) {
        let mut parts = Bitset::new(live.segment.record().passages as usize);
        for (document, rows) in live.segment.split_documents() {
            let mut is_there = false;
            for row in rows {
                parts.set(row);
                is_there |= !live.deleted.test(row);
            }
            if is_there {
                self.is_document.insert(digest(document), true);
            }
        }
        for (id, row) in live.segment.ids() {
            if !live.deleted.test(row) {
                match self.is_document.entry(id) {
                    Entry::Vacant(free) => {
                        free.insert(!parts.test(row));
                    }
                    Entry::Occupied(mut known) => *known.get_mut() |= !parts.test(row),
                }
            }
        }
    }
}

fn not_mergeable(dir: &Path, reason: impl Into<String>) -> IndexError {
    IndexError::NotMergeable {
        dir: dir.into(),
        reason: reason.into(),
    }
}
