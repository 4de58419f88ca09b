//! Opening an index: from a manifest to what searches see.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::IndexError;
use crate::format;
use crate::format::log::{self, Replay};
use crate::format::manifest::{MANIFEST_FILE, Manifest};
use crate::format::tracked;
use crate::live::change;
use crate::live::delta::Delta;
use crate::live::live_segment::LiveSegment;
use crate::live::snapshot::Snapshot;
use crate::segment::{self, Segment, tombstones};

/// Opens every file that a manifest names. Returns what searches see, and what the last log holds.
pub(crate) fn load(
    dir: &Path,
    manifest: &Manifest,
    graph_from: usize,
) -> Result<(Snapshot, Option<(u64, Replay)>), IndexError> {
    let dimension = manifest.dimension as usize;
    if dimension == 0 {
        let file = dir.join(MANIFEST_FILE);
        return Err(IndexError::damaged(&file, "its vectors have no dimensions"));
    }
    if manifest
        .numbers()
        .any(|number| number >= manifest.next_number)
    {
        let file = dir.join(MANIFEST_FILE);
        return Err(IndexError::damaged(&file, "its next number is in use"));
    }
    let mut segments = Vec::new();
    for record in &manifest.segments {
        let deleted = tombstones::read(dir, record)?;
        let segment = Segment::open(dir, record.clone(), dimension)?;
        if let Some(reason) = segment.graph_damage() {
            let dir = segment.dir().display();
            tracing::warn!(%reason, segment = %dir, "the graph cannot be used: every vector is compared");
        }
        segments.push(LiveSegment::new(Arc::new(segment), deleted));
    }
    let mut snapshot = Snapshot {
        segments,
        delta: Arc::new(Delta::new(dimension, graph_from)),
        dimension,
    };
    let mut last = None;
    for &number in &manifest.logs {
        let replay = log::read(dir, &manifest.index_id, number)?;
        for payload in &replay.payloads {
            let changes = change::decode(payload, dimension)
                .map_err(|reason| IndexError::damaged(&log::path(dir, number), reason))?;
            snapshot.apply(&changes, |_| ())?;
        }
        if replay.torn > 0 {
            let log = log::path(dir, number);
            tracing::warn!(log = %log.display(), bytes = replay.torn, "a change that nobody was told of is left out");
        }
        last = Some((number, replay));
    }
    Ok((snapshot, last))
}

/// Removes what a crash has left: segments, logs and tombstones that the manifest does not name.
pub(crate) fn remove_leftovers(dir: &Path, manifest: &Manifest) -> Result<(), IndexError> {
    let segments = manifest.segments.iter();
    let mut named: Vec<PathBuf> = segments
        .map(|s| dir.join(segment::directory_name(s.number)))
        .collect();
    let tombstones = manifest
        .segments
        .iter()
        .filter_map(|s| s.tombstones.as_ref());
    named.extend(tombstones.map(|t| tombstones::path(dir, t.number)));
    named.extend(manifest.logs.iter().map(|&number| log::path(dir, number)));
    let half_a_manifest = tracked::aside(&dir.join(MANIFEST_FILE));
    for entry in fs::read_dir(dir).map_err(IndexError::io("read", dir))? {
        let path = entry.map_err(IndexError::io("read", dir))?.path();
        let ours = path == half_a_manifest || is_numbered(&path);
        if !ours || named.contains(&path) {
            continue;
        }
        format::remove(&path)?;
    }
    Ok(())
}

/// Whether a path's name is one that a segment, a log or a file of tombstones could have.
fn is_numbered(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((_, rest)) = name.split_once('-') else {
        return false;
    };
    let number = rest.strip_suffix(".log").unwrap_or(rest).parse();
    number.is_ok_and(|number| {
        let dir = path.parent().unwrap_or(Path::new(""));
        *path == dir.join(segment::directory_name(number))
            || *path == log::path(dir, number)
            || *path == tombstones::path(dir, number)
    })
}
