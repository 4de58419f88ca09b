//! Building an index from nothing: passages and vectors are streamed to disk, the graph is built at
//! the end.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::build::ingested::Ingested;
use crate::build::staging::Staging;
use crate::error::IndexError;
use crate::fingerprints::Fingerprints;
use crate::format::document_rules::DocumentRules;
use crate::format::graph_record::GraphParameters;
use crate::format::log::{self, Log};
use crate::format::manifest::Manifest;
use crate::format::tracked;
use crate::segment::passages::Passage;
use crate::segment::search::dot_i8::LARGEST_DIMENSION;
use crate::segment::vectors::normalised;
use crate::segment::{self, FinishOptions, SegmentWriter, WrittenSoFar};

/// Vectors up to which no graph is built. At 896 dimensions a scan is as fast as a walk through a graph
/// up to about 1,000 (20 µs); 5,000 are scanned in a tenth of a millisecond, nothing beside the model,
/// and a scan is never wrong. Of larger collections the scan is chosen for each search that it serves
/// with less work: with a filter that leaves few, or for very many hits.
pub const EXACT_SCAN_LIMIT: u32 = 5_000;

/// How an index is built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Width of every vector.
    pub dimension: usize,
    /// What makes the vectors.
    pub fingerprints: Fingerprints,
    /// Parameters of the graph, if one is needed.
    pub graph: GraphParameters,
    /// Vectors up to which no graph is built.
    pub exact_scan_limit: u32,
    /// What the index is to know of how its documents became passages. A build from a corpus sets it.
    pub documents: Option<DocumentRules>,
}

impl BuildOptions {
    /// The defaults: `m` 16, `ef_construction` 200, [`EXACT_SCAN_LIMIT`].
    pub fn new(dimension: usize, fingerprints: Fingerprints) -> Self {
        Self {
            dimension,
            fingerprints,
            graph: GraphParameters {
                m: 16,
                ef_construction: 200,
            },
            exact_scan_limit: EXACT_SCAN_LIMIT,
            documents: None,
        }
    }
}

/// Where an interrupted build goes on: kept beside what it has written.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    /// What is built of what and how; another job does not go on with it.
    job: String,
    dimension: usize,
    written: WrittenSoFar,
    /// How much of the corpus that is.
    ingested: Ingested,
}

const PROGRESS_FILE: &str = "progress.json";
// Numbers in the names of a new index's files.
const SEGMENT: u64 = 1;
const LOG: u64 = 2;

/// Builds an index beside its target and puts it there in [`IndexBuilder::finish`]. The target stays
/// as it was until then.
pub struct IndexBuilder {
    staging: Staging,
    options: BuildOptions,
    segment: SegmentWriter,
    job: Option<String>,
    write_failed: bool,
}

impl IndexBuilder {
    /// Begins an index that will stand at `dir`, which is made if need be. An index that stands
    /// there is replaced when the new one is finished, not before. Dropped before, the builder leaves
    /// nothing behind.
    ///
    /// # Errors
    /// [`IndexError::NotReplaceable`] if anything but an index stands there, [`IndexError::Locked`]
    /// if another build is at it, [`IndexError::Option`] for options that make no sense.
    pub fn create(dir: &Path, options: BuildOptions) -> Result<Self, IndexError> {
        check(&options)?;
        let staging = Staging::begin(dir)?;
        staging.clear_except(&[])?;
        let segment = staging.path().join(segment::directory_name(SEGMENT));
        Ok(Self {
            segment: SegmentWriter::create(segment, options.dimension)?,
            staging,
            options,
            job: None,
            write_failed: false,
        })
    }

    /// Goes on with an interrupted build of the same `job`, or begins one. Returns also what was last
    /// given to [`IndexBuilder::save_progress`]. Dropped before it is finished, the builder
    /// leaves what it has for the next one.
    ///
    /// # Errors
    /// As [`IndexBuilder::create`].
    pub fn resume(
        dir: &Path,
        options: BuildOptions,
        job: &str,
    ) -> Result<(Self, Ingested), IndexError> {
        check(&options)?;
        let mut staging = Staging::begin(dir)?;
        staging.keep();
        let segment_name = segment::directory_name(SEGMENT);
        let segment = staging.path().join(&segment_name);
        let progress = staging.read(PROGRESS_FILE)?;
        let progress = progress.and_then(|json| serde_json::from_slice::<Progress>(&json).ok());
        let same = |p: &Progress| p.job == job && p.dimension == options.dimension;
        if let Some(progress) = progress.filter(same) {
            // The interrupted build may have been about to finish.
            staging.clear_except(&[PROGRESS_FILE, &segment_name])?;
            match SegmentWriter::resume(segment.clone(), options.dimension, &progress.written) {
                Ok(segment) => {
                    let builder = Self {
                        segment,
                        staging,
                        options,
                        job: Some(job.into()),
                        write_failed: false,
                    };
                    return Ok((builder, progress.ingested));
                }
                Err(error) => {
                    tracing::warn!(%error, "the interrupted build cannot be used; it begins anew");
                }
            }
        }
        staging.clear_except(&[])?;
        let builder = Self {
            segment: SegmentWriter::create(segment, options.dimension)?,
            staging,
            options,
            job: Some(job.into()),
            write_failed: false,
        };
        Ok((builder, Ingested::default()))
    }

    /// Number of passages added.
    pub fn passages(&self) -> u32 {
        self.segment.passages()
    }

    /// Number of vectors added.
    pub fn vectors(&self) -> u32 {
        self.segment.vectors()
    }

    /// Adds a passage and its vectors, of any length; they are scaled to unit length.
    ///
    /// # Errors
    /// [`IndexError::DuplicateId`], [`IndexError::NoVector`], [`IndexError::Dimension`],
    /// [`IndexError::NoDirection`]: the passage was not added and the builder can go on.
    /// [`IndexError::Io`]: it cannot.
    pub fn add<V: AsRef<[f32]>>(
        &mut self,
        passage: &Passage,
        vectors: &[V],
    ) -> Result<(), IndexError> {
        if vectors.is_empty() {
            return Err(IndexError::NoVector {
                id: passage.id.clone(),
            });
        }
        let units = vectors
            .iter()
            .map(|vector| normalised(vector.as_ref(), self.options.dimension))
            .collect::<Result<Vec<_>, _>>()?;
        self.segment.accepts(passage, units.len())?;
        let written = self.segment.push(passage, &units);
        self.write_failed |= written.is_err();
        written
    }

    /// Puts on the disk what was added so far, with how much of the corpus that is: from there a
    /// build goes on that is interrupted.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn save_progress(&mut self, ingested: &Ingested) -> Result<(), IndexError> {
        let Some(job) = self.job.clone() else {
            return Ok(());
        };
        self.check_written()?;
        // After a sync that failed, another one can succeed although data was lost.
        let written = self.segment.sync();
        self.write_failed |= written.is_err();
        let progress = Progress {
            job,
            dimension: self.options.dimension,
            written: written?,
            ingested: *ingested,
        };
        let path = self.staging.path().join(PROGRESS_FILE);
        let json =
            serde_json::to_vec(&progress).map_err(|e| IndexError::io("write", &path)(e.into()))?;
        tracked::replace(&path, &json)
    }

    /// Gives up: nothing is left for another builder to go on with.
    pub fn discard(mut self) {
        self.staging.discard();
    }

    /// Builds the graph if the collection is large, writes the manifest, and puts the index in its
    /// place.
    ///
    /// # Errors
    /// [`IndexError::Io`], also after an earlier write has failed; [`IndexError::Locked`] if the
    /// index that stands there is open for changes. It then still stands there.
    pub fn finish(self) -> Result<Manifest, IndexError> {
        self.finish_with(|_| ())
    }

    /// [`IndexBuilder::finish`], telling how many vectors the graph holds so far.
    ///
    /// # Errors
    /// As [`IndexBuilder::finish`].
    pub fn finish_with(self, mut on_linked: impl FnMut(usize)) -> Result<Manifest, IndexError> {
        self.check_written()?;
        let dir = self.staging.path();
        let BuildOptions {
            dimension,
            fingerprints,
            graph,
            exact_scan_limit,
            documents,
        } = self.options;
        let mut manifest = Manifest::new(dimension as u32, fingerprints, graph, exact_scan_limit);
        manifest.documents = documents;
        manifest.next_number = LOG + 1;
        if self.segment.passages() > 0 {
            let options = FinishOptions {
                graph,
                exact_scan_limit,
            };
            let record = self.segment.finish(SEGMENT, &options, |linked| {
                on_linked(linked);
                true
            })?;
            manifest.segments.push(record);
        }
        // One that an interrupted build has left.
        if let Err(error) = fs::remove_file(log::path(dir, LOG))
            && error.kind() != ErrorKind::NotFound
        {
            return Err(IndexError::io("remove", &log::path(dir, LOG))(error));
        }
        Log::create(dir, &manifest.index_id, LOG)?;
        manifest.logs.push(LOG);
        manifest.write(dir)?;
        self.staging.publish(&[PROGRESS_FILE])?;
        Ok(manifest)
    }

    fn check_written(&self) -> Result<(), IndexError> {
        if !self.write_failed {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write failed");
        Err(IndexError::io("finish", self.staging.path())(source))
    }
}

fn check(options: &BuildOptions) -> Result<(), IndexError> {
    if !(1..=LARGEST_DIMENSION).contains(&options.dimension) {
        return Err(IndexError::Option {
            name: "dimension",
            value: options.dimension,
            allowed: "between 1 and 131072",
        });
    }
    options.graph.check()
}
