//! What an index holds, in numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::format::graph_record::Calibration;
use crate::live::live_segment::LiveSegment;
use crate::live::snapshot::Snapshot;

/// What an index holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Passages.
    pub passages: u64,
    /// Vectors of passages in segments, deleted ones included, and in the delta.
    pub vectors: u64,
    /// Passages that are deleted and still in the files.
    pub deleted: u64,
    /// Passages that are in the log only.
    pub in_log: u64,
    /// Passages of the log, deleted ones included, that a graph in memory holds already. The others are
    /// scanned.
    pub in_log_graph: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Passages in segments, deleted ones included, with which keys and values are kept, and the bytes of these.
    pub passage_kv: (u64, u64),
    /// The segments, oldest first.
    pub segments: Vec<SegmentStats>,
    /// Metadata that filters can ask for: each field with the passages in segments that have it.
    pub fields: BTreeMap<String, u64>,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentStats {
    /// Passages, deleted ones included.
    pub passages: u32,
    /// Deleted ones.
    pub deleted: u32,
    /// Vectors.
    pub vectors: u32,
    /// How it is searched.
    pub search: SegmentSearch,
}

/// How a segment is searched.
#[derive(Debug, Clone, PartialEq)]
pub enum SegmentSearch {
    /// Every vector is compared.
    Scan,
    /// Through its graph, with what was measured of it when it was built.
    Graph(Calibration),
    /// Every vector is compared, because the graph cannot be used; a merge builds it again.
    GraphDamaged {
        /// What is wrong with it.
        reason: String,
    },
}

impl Stats {
    pub(crate) fn new(snapshot: &Snapshot, dir: &Path) -> Self {
        let segments: Vec<_> = snapshot.segments.iter().map(SegmentStats::new).collect();
        let in_segments: u64 = segments.iter().map(|s| u64::from(s.vectors)).sum();
        let in_delta = snapshot.delta.numbers() / snapshot.dimension.max(1);
        let mut fields = BTreeMap::new();
        for live in &snapshot.segments {
            for (name, passages) in live.segment.fields() {
                *fields.entry(name.to_owned()).or_default() += u64::from(passages);
            }
        }
        Self {
            fields,
            passages: snapshot.passages(),
            vectors: in_segments + in_delta as u64,
            deleted: segments.iter().map(|s| u64::from(s.deleted)).sum(),
            in_log: snapshot.delta.passages() as u64,
            in_log_graph: snapshot.delta.rows_in_graphs() as u64,
            bytes: bytes_below(dir),
            passage_kv: snapshot
                .segments
                .iter()
                .filter_map(|live| live.segment.kv())
                .fold((0, 0), |(passages, bytes), kv| {
                    (passages + u64::from(kv.passages()), bytes + kv.length())
                }),
            segments,
        }
    }
}

impl SegmentStats {
    fn new(live: &LiveSegment) -> Self {
        let record = live.segment.record();
        Self {
            passages: record.passages,
            deleted: live.deletions,
            vectors: record.vectors,
            search: match live.segment.graph_damage() {
                Some(reason) => SegmentSearch::GraphDamaged {
                    reason: reason.into(),
                },
                None => match record.graph {
                    Some(graph) => SegmentSearch::Graph(graph.calibration),
                    None => SegmentSearch::Scan,
                },
            },
        }
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    bytes.sum()
}
