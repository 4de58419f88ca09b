//! A segment: passages, vectors and a graph that never change, in a directory of their own.

pub(crate) mod codes;
pub(crate) mod graph;
pub(crate) mod passage_kv;
pub(crate) mod passages;
pub(crate) mod planner;
pub(crate) mod search;
pub(crate) mod tombstones;
pub(crate) mod vectors;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::IndexError;
use crate::filter::bitset::Bitset;
use crate::filter::columns::Columns;
use crate::filter::metadata::MetadataWriter;
use crate::filter::{Filter, RESERVED};
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::graph_record::{GraphParameters, GraphRecord};
use crate::format::manifest::SegmentRecord;
use crate::format::rows::RowWriter;
use crate::format::tracked::{self, TrackedFile};
use crate::segment::graph::Graph;
use crate::segment::graph::links::{GRAPH, LinkArray, Links};
use crate::segment::passage_kv::PassageKvStore;
use crate::segment::passages::{IdDigest, Passage, PassageStore, PassageWriter};
use crate::segment::planner::{Found, Reach, nearest};
use crate::segment::search::score::VectorFilter;
use crate::segment::vectors::{VectorStore, VectorWriter};

/// Values of the passages' metadata, see [`crate::filter::metadata`].
const METADATA: &str = "metadata.values";
/// The index's own metadata key for the document of a passage.
const DOCUMENT: &str = "$document";

/// Name of a segment's directory.
pub(crate) fn directory_name(number: u64) -> String {
    format!("segment-{number:06}")
}

/// An open segment.
pub(crate) struct Segment {
    dir: PathBuf,
    record: SegmentRecord,
    passages: PassageStore,
    kv: Option<PassageKvStore>,
    vectors: VectorStore,
    columns: Columns<CheckedFile>,
    graph: Option<Graph>,
    // Why the graph that should be there cannot be used.
    graph_damage: Option<String>,
}

impl Segment {
    /// Opens the segment that `record` describes, in the directory of its index. A graph that is
    /// missing or damaged is left out: the segment is then scanned.
    pub(crate) fn open(
        index_dir: &Path,
        record: SegmentRecord,
        dimension: usize,
    ) -> Result<Self, IndexError> {
        let dir = index_dir.join(directory_name(record.number));
        let files = FileSet::open(&dir, &record.files)?;
        let passages = PassageStore::open(&files, record.passages)?;
        let kv = PassageKvStore::open(&files, record.passages)?;
        let vectors = VectorStore::open(&files, record.vectors, record.passages, dimension)?;
        let metadata = files.map_verified(METADATA)?;
        let columns = Columns::parse(metadata, record.passages)
            .map_err(|reason| IndexError::damaged(&dir.join(METADATA), reason))?;
        let loaded = record.graph.map(|graph| {
            let file = files.map_verified(GRAPH)?;
            let links = Links::parse(LinkArray::Mapped(file), vectors.count())
                .map_err(|reason| IndexError::damaged(&dir.join(GRAPH), reason))?;
            let calibration = graph.calibration;
            Ok::<_, IndexError>(Graph { links, calibration })
        });
        let (graph, graph_damage) = match loaded {
            None => (None, None),
            Some(Ok(graph)) => (Some(graph), None),
            Some(Err(error)) => (None, Some(error.to_string())),
        };
        Ok(Self {
            dir,
            record,
            passages,
            kv,
            vectors,
            columns,
            graph,
            graph_damage,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn record(&self) -> &SegmentRecord {
        &self.record
    }

    pub(crate) fn graph_damage(&self) -> Option<&str> {
        self.graph_damage.as_deref()
    }

    pub(crate) fn passage(&self, row: u32) -> Result<Passage, IndexError> {
        self.passages.get(row)
    }

    /// The keys and values that were kept with its passages.
    pub(crate) fn kv(&self) -> Option<&PassageKvStore> {
        self.kv.as_ref()
    }

    /// The keys and values that were kept with the passage of a row.
    pub(crate) fn kv_of(&self, row: u32) -> Result<Option<&[u8]>, IndexError> {
        self.kv.as_ref().map_or(Ok(None), |kv| kv.get(row))
    }

    /// The row of the passage with an id's digest.
    pub(crate) fn find(&self, id: &IdDigest) -> Option<u32> {
        self.passages.find(id)
    }

    /// The unit vectors of a passage.
    pub(crate) fn vectors_of(&self, row: u32) -> Result<Vec<&[f32]>, IndexError> {
        let vectors = self.vectors.of_passage(row);
        vectors.map(|vector| self.vectors.row(vector)).collect()
    }

    /// Which of its passage's vectors a vector is, from 0, and the row of that passage.
    pub(crate) fn owner(&self, vector: u32) -> (u32, u32) {
        let row = self.vectors.owners()[vector as usize];
        (row, vector - self.vectors.of_passage(row).start)
    }

    /// Rows of the passages whose metadata fits a filter; without one all.
    pub(crate) fn select(&self, filter: Option<&Filter>) -> Bitset {
        match filter {
            Some(filter) => self.columns.select(filter),
            None => Bitset::full(self.record.passages as usize),
        }
    }

    /// Fields of the passages' metadata, each with how many passages have it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, u32)> {
        let fields = self.columns.fields();
        fields
            .filter(|field| !field.name.starts_with(RESERVED))
            .map(|field| (field.name, field.passages))
    }

    /// The digests of all passages' ids, ascending, each with its row.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (IdDigest, u32)> {
        self.passages.ids()
    }

    /// The documents that were cut into passages, ascending by id, each with its rows.
    pub(crate) fn split_documents(
        &self,
    ) -> impl Iterator<Item = (&str, impl Iterator<Item = u32>)> {
        self.columns.texts(DOCUMENT)
    }

    /// Rows of the passages that were cut from a document.
    pub(crate) fn parts_of(&self, document: &str) -> Vec<u32> {
        let document = document.into();
        self.columns.holding(DOCUMENT, &document).collect()
    }

    /// The best vectors of the best `k` passages that are allowed. Through the graph, unless all are to be
    /// compared or a scan is less work.
    pub(crate) fn search(
        &self,
        query: &[f32],
        k: usize,
        allowed: Option<&Bitset>,
        reach: Reach,
    ) -> Result<Found, IndexError> {
        let owners = self.vectors.owners();
        let allows = |vector: u32| allowed.is_none_or(|rows| rows.test(owners[vector as usize]));
        let allowed = allowed.map(|rows| VectorFilter {
            allows: &allows,
            vectors: if owners.len() == self.record.passages as usize {
                rows.count()
            } else {
                owners.iter().filter(|&&row| rows.test(row)).count()
            },
        });
        let (vectors, graph) = (&self.vectors, self.graph.as_ref());
        nearest(vectors, graph, query, k, allowed.as_ref(), reach)
    }

    /// Verifies everything that opening did not, and fails at the first error.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.passages.verify()?;
        self.kv.iter().try_for_each(PassageKvStore::verify)?;
        self.vectors.verify()
    }
}

/// How much an interrupted writer had written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WrittenSoFar {
    // Other files in the directory were left by a writer that was interrupted later.
    files: BTreeSet<String>,
    passages: u32,
    passage_bytes: u64,
    /// Bytes of keys and values, if any are kept.
    #[serde(default)]
    kv_bytes: Option<u64>,
    vectors: u32,
}

/// Writes the files of a segment: passages, keys and values, and vectors when they are pushed, the graph at the end.
pub(crate) struct SegmentWriter {
    dir: PathBuf,
    dimension: usize,
    passages: PassageWriter,
    kv: Option<RowWriter>,
    vectors: VectorWriter,
    metadata: MetadataWriter,
}

/// How a segment is finished.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FinishOptions {
    /// Parameters of the graph.
    pub(crate) graph: GraphParameters,
    /// The largest number of vectors for which no graph is built.
    pub(crate) exact_scan_limit: u32,
}

impl SegmentWriter {
    /// Makes the directory `dir`. `keeps_kv` says whether passages may come with keys and values.
    pub(crate) fn create(
        dir: PathBuf,
        dimension: usize,
        keeps_kv: bool,
    ) -> Result<Self, IndexError> {
        fs::create_dir(&dir).map_err(IndexError::io("create", &dir))?;
        Ok(Self {
            passages: PassageWriter::create(&dir)?,
            kv: keeps_kv.then(|| passage_kv::create(&dir)).transpose()?,
            vectors: VectorWriter::create(&dir, dimension)?,
            metadata: MetadataWriter::new(),
            dir,
            dimension,
        })
    }

    /// Continues from the last call of [`SegmentWriter::sync`].
    pub(crate) fn resume(
        dir: PathBuf,
        dimension: usize,
        written: &WrittenSoFar,
    ) -> Result<Self, IndexError> {
        for name in names(&dir)?.difference(&written.files) {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(IndexError::io("remove", &path))?;
        }
        let (passages, bytes) = (written.passages, written.passage_bytes);
        let mut metadata = MetadataWriter::new();
        Ok(Self {
            passages: PassageWriter::resume(&dir, passages, bytes, |row, passage| {
                push_metadata(&mut metadata, row, passage);
            })?,
            kv: written
                .kv_bytes
                .map(|bytes| passage_kv::resume(&dir, passages, bytes))
                .transpose()?,
            vectors: VectorWriter::resume(&dir, written.vectors, dimension)?,
            metadata,
            dir,
            dimension,
        })
    }

    pub(crate) fn passages(&self) -> u32 {
        self.passages.count()
    }

    pub(crate) fn vectors(&self) -> u32 {
        self.vectors.count()
    }

    /// Fails if a passage of so many vectors cannot be the next.
    pub(crate) fn accepts(&self, passage: &Passage, vectors: usize) -> Result<(), IndexError> {
        self.passages.accepts(passage)?;
        self.vectors.accepts(vectors)
    }

    /// Writes a passage that the writer accepts, its unit vectors, and its keys and values if there are any and
    /// the writer keeps them.
    pub(crate) fn push<V: AsRef<[f32]>>(
        &mut self,
        passage: &Passage,
        units: &[V],
        kv: Option<&[u8]>,
    ) -> Result<(), IndexError> {
        let row = self.passages.count();
        self.passages.push(passage)?;
        if let Some(writer) = &mut self.kv {
            writer.push(kv.unwrap_or_default())?;
        }
        push_metadata(&mut self.metadata, row, passage);
        units
            .iter()
            .try_for_each(|unit| self.vectors.push(row, unit.as_ref()))
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<WrittenSoFar, IndexError> {
        self.passages.sync()?;
        self.kv.iter_mut().try_for_each(RowWriter::sync)?;
        self.vectors.sync()?;
        Ok(WrittenSoFar {
            files: names(&self.dir)?,
            passages: self.passages.count(),
            passage_bytes: self.passages.length(),
            kv_bytes: self.kv.as_ref().map(RowWriter::length),
            vectors: self.vectors.count(),
        })
    }

    /// Builds the graph if there are many vectors, syncs everything to the disk and returns its
    /// record. `on_linked` is called with the number of linked vectors and returns whether to
    /// continue.
    pub(crate) fn finish(
        self,
        number: u64,
        options: &FinishOptions,
        on_linked: impl FnMut(usize) -> bool,
    ) -> Result<SegmentRecord, IndexError> {
        let (passages, vectors) = (self.passages.count(), self.vectors.count());
        let mut files = Vec::from(self.passages.finish()?);
        if let Some(kv) = self.kv {
            files.extend(kv.finish()?);
        }
        files.extend(self.vectors.finish()?);
        let mut metadata = TrackedFile::create(self.dir.join(METADATA))?;
        self.metadata
            .finish(passages, |bytes| metadata.write(bytes))?;
        files.push((METADATA, metadata.finish()?));
        let mut graph = None;
        if vectors > options.exact_scan_limit {
            let written = VectorStore::open_written(&self.dir, self.dimension)?;
            if let Some(built) = Graph::build(&written, &options.graph, on_linked)? {
                let mut file = TrackedFile::create(self.dir.join(GRAPH))?;
                file.write(bytemuck::cast_slice(built.links.words()))?;
                files.push((GRAPH, file.finish()?));
                graph = Some(GraphRecord {
                    parameters: options.graph,
                    calibration: built.calibration,
                });
            }
        }
        let files = tracked::write_blocks(&self.dir, files)?;
        tracked::sync_dir(&self.dir)?;
        Ok(SegmentRecord {
            number,
            passages,
            vectors,
            graph,
            files,
            tombstones: None,
        })
    }
}

fn names(dir: &Path) -> Result<BTreeSet<String>, IndexError> {
    let read = || -> io::Result<_> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().map_err(IndexError::io("read", dir))
}

fn push_metadata(metadata: &mut MetadataWriter, row: u32, passage: &Passage) {
    metadata.push(row, passage.metadata.as_ref());
    if let Some(part) = &passage.part {
        metadata.push_reserved(row, DOCUMENT, &part.document.as_str().into());
    }
}
