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
use crate::format::shard::Shard;
use crate::format::tracked;
use crate::segment::passages::Passage;
use crate::segment::search::dot_i8::LARGEST_DIMENSION;
use crate::segment::vectors::normalised;
use crate::segment::{self, FinishOptions, SegmentWriter, WrittenSoFar};

/// The largest number of vectors for which no graph is built. At 896 dimensions a scan of up to about
/// 1,000 vectors is as fast as a walk through a graph (20 µs). A scan of 5,000 takes a tenth of a
/// millisecond, which is nothing compared with the model, and a scan is never wrong. In larger
/// collections each search chooses the scan where that is less work: with a filter that leaves few
/// passages, or for very many hits.
pub const EXACT_SCAN_LIMIT: u32 = 5_000;

/// How an index is built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Width of every vector.
    pub dimension: usize,
    /// The model that makes the vectors.
    pub fingerprints: Fingerprints,
    /// Parameters of the graph, if one is needed.
    pub graph: GraphParameters,
    /// The largest number of vectors for which no graph is built.
    pub exact_scan_limit: u32,
    /// How the documents become passages, to be recorded in the index. A build from a corpus sets it.
    pub documents: Option<DocumentRules>,
    /// Identifies the model and kernels of keys and values that are kept with the passages; `None` if none are.
    pub passage_kv: Option<String>,
    /// The part of a corpus that is built, to be recorded in the index. A build from a corpus sets it.
    pub shard: Option<Shard>,
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
            passage_kv: None,
            shard: None,
        }
    }
}

/// The point at which an interrupted build continues. It is kept beside the files that the build
/// has written.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    /// Names the corpus and the options of the build. A build with another job does not continue
    /// this one.
    job: String,
    dimension: usize,
    written: WrittenSoFar,
    /// How much of the corpus is indexed so far.
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
    /// Begins an index that will be published at `dir`; the directory is created if it does not
    /// exist. An index that is already there is replaced when the new one is finished, not before. A
    /// builder that is dropped before that leaves nothing behind.
    ///
    /// # Errors
    /// [`IndexError::NotReplaceable`] if anything but an index stands there, [`IndexError::Locked`]
    /// if another build writes to the same directory, [`IndexError::Option`] for options that make
    /// no sense.
    pub fn create(dir: &Path, options: BuildOptions) -> Result<Self, IndexError> {
        check(&options)?;
        let staging = Staging::begin(dir)?;
        staging.clear_except(&[])?;
        let segment = staging.path().join(segment::directory_name(SEGMENT));
        Ok(Self {
            segment: SegmentWriter::create(
                segment,
                options.dimension,
                options.passage_kv.is_some(),
            )?,
            staging,
            options,
            job: None,
            write_failed: false,
        })
    }

    /// Continues an interrupted build of the same `job`, or begins one. It also returns the progress
    /// that was last given to [`IndexBuilder::save_progress`]. A builder that is dropped before it is
    /// finished leaves its files for the next one.
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
            // The interrupted build may already have written files of its last step.
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
            segment: SegmentWriter::create(
                segment,
                options.dimension,
                options.passage_kv.is_some(),
            )?,
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
    /// [`IndexError::NoDirection`]: the passage was not added, and the builder can be used further.
    /// [`IndexError::Io`]: the builder cannot be used further.
    pub fn add<V: AsRef<[f32]>>(
        &mut self,
        passage: &Passage,
        vectors: &[V],
    ) -> Result<(), IndexError> {
        self.add_with_kv(passage, vectors, None)
    }

    /// As [`IndexBuilder::add`], with the keys and values that were computed for the passage, which are kept if
    /// [`BuildOptions::passage_kv`] is set.
    ///
    /// # Errors
    /// As [`IndexBuilder::add`].
    pub fn add_with_kv<V: AsRef<[f32]>>(
        &mut self,
        passage: &Passage,
        vectors: &[V],
        kv: Option<&[u8]>,
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
        let written = self.segment.push(passage, &units, kv);
        self.write_failed |= written.is_err();
        written
    }

    /// Syncs what was added so far to the disk and records how much of the corpus that is. An
    /// interrupted build continues from there.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn save_progress(&mut self, ingested: &Ingested) -> Result<(), IndexError> {
        let Some(job) = self.job.clone() else {
            return Ok(());
        };
        self.check_written()?;
        // After a failed sync the next sync can succeed although data was lost.
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

    /// Gives up the build. Nothing is left for another builder to continue.
    pub fn discard(mut self) {
        self.staging.discard();
    }

    /// Builds the graph if the collection is large, writes the manifest, and puts the index in its
    /// place.
    ///
    /// # Errors
    /// [`IndexError::Io`], also after an earlier write has failed; [`IndexError::Locked`] if the
    /// index that stands there is open for changes. The old index is then unchanged.
    pub fn finish(self) -> Result<Manifest, IndexError> {
        self.finish_with(|_| ())
    }

    /// The same as [`IndexBuilder::finish`]; it also reports how many vectors the graph holds so
    /// far.
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
            passage_kv,
            shard,
        } = self.options;
        let mut manifest = Manifest::new(dimension as u32, fingerprints, graph, exact_scan_limit);
        manifest.documents = documents;
        manifest.passage_kv = passage_kv;
        manifest.shard = shard;
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
        // An interrupted build may have left a log with this name.
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
