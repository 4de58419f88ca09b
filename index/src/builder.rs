//! Writing an index: passages and vectors are streamed to disk, the graph is built at the end.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::dot_i8::LARGEST_DIMENSION;
use crate::error::IndexError;
use crate::files::{self, TrackedFile};
use crate::manifest::{Fingerprints, GraphParameters, GraphRecord, MANIFEST_FILE, Manifest};
use crate::nearest::Graph;
use crate::passages::{Passage, PassageWriter};
use crate::staging::Staging;
use crate::vectors::{VectorStore, VectorWriter, normalised};

/// Vectors up to which no graph is built: so many of 896 dimensions are scanned in 20 µs, and a walk
/// through a graph of them takes no less. Of larger collections the scan is chosen for each search that
/// it serves with less work: with a filter that leaves few, or for very many hits.
pub const EXACT_SCAN_LIMIT: u32 = 1_000;

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
        }
    }
}

/// Builds an index beside its target and puts it there in [`IndexBuilder::finish`]. Dropped before,
/// it leaves nothing behind and the target as it was.
pub struct IndexBuilder {
    staging: Staging,
    options: BuildOptions,
    passages: PassageWriter,
    vectors: VectorWriter,
    write_failed: bool,
}

impl IndexBuilder {
    /// Begins an index that will stand at `dir`, which is made if need be. An index that stands
    /// there is replaced when the new one is finished, not before.
    ///
    /// # Errors
    /// [`IndexError::NotReplaceable`] if anything but an index stands there, [`IndexError::Option`]
    /// for options that make no sense.
    pub fn create(dir: &Path, options: BuildOptions) -> Result<Self, IndexError> {
        if !(1..=LARGEST_DIMENSION).contains(&options.dimension) {
            let value = options.dimension;
            return Err(IndexError::Option {
                name: "dimension",
                value,
                allowed: "between 1 and 131072",
            });
        }
        options.graph.check()?;
        let staging = Staging::create(dir)?;
        Ok(Self {
            passages: PassageWriter::create(staging.path())?,
            vectors: VectorWriter::create(staging.path(), options.dimension)?,
            staging,
            options,
            write_failed: false,
        })
    }

    /// Number of passages added.
    pub fn passages(&self) -> u32 {
        self.passages.count()
    }

    /// Number of vectors added.
    pub fn vectors(&self) -> u32 {
        self.vectors.count()
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
        self.passages.accepts(passage)?;
        self.vectors.accepts(units.len())?;
        let written = self.write(passage, &units);
        self.write_failed |= written.is_err();
        written
    }

    fn write(&mut self, passage: &Passage, units: &[Vec<f32>]) -> Result<(), IndexError> {
        let number = self.passages.count();
        self.passages.push(passage)?;
        units
            .iter()
            .try_for_each(|unit| self.vectors.push(number, unit))
    }

    /// Builds the graph if the collection is large, writes the manifest, and puts the index in its
    /// place.
    ///
    /// # Errors
    /// [`IndexError::Io`], also after an earlier write has failed. What stood at the target then
    /// still stands there.
    pub fn finish(self) -> Result<Manifest, IndexError> {
        self.finish_with(|_| ())
    }

    /// [`IndexBuilder::finish`], telling how many vectors the graph holds so far.
    ///
    /// # Errors
    /// As [`IndexBuilder::finish`].
    pub fn finish_with(self, on_linked: impl FnMut(usize)) -> Result<Manifest, IndexError> {
        let dir = self.staging.path();
        if self.write_failed {
            let source = std::io::Error::other("an earlier write failed");
            return Err(IndexError::io("finish", dir)(source));
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let BuildOptions {
            dimension,
            fingerprints,
            graph,
            exact_scan_limit,
        } = self.options;
        let mut manifest = Manifest::new(dimension as u32, fingerprints, now.as_secs());
        manifest.passages = self.passages.count();
        manifest.vectors = self.vectors.count();
        let records = self
            .passages
            .finish()?
            .into_iter()
            .chain(self.vectors.finish()?);
        manifest
            .files
            .extend(records.map(|(name, record)| (name.to_owned(), record)));

        if manifest.vectors > exact_scan_limit {
            let vectors = VectorStore::open_written(dir, dimension)?;
            if let Some(built) = Graph::build(&vectors, &graph, on_linked)? {
                let mut file = TrackedFile::create(dir.join(files::GRAPH))?;
                file.write(bytemuck::cast_slice(built.links.words()))?;
                manifest.files.insert(files::GRAPH.into(), file.finish()?);
                manifest.graph = Some(GraphRecord {
                    parameters: graph,
                    calibration: built.calibration,
                });
            }
        }

        let path = dir.join(MANIFEST_FILE);
        let sealed = manifest
            .seal()
            .map_err(|e| IndexError::io("write", &path)(e.into()))?;
        let mut file = TrackedFile::create(path)?;
        file.write(&sealed)?;
        file.finish()?;
        self.staging.publish()?;
        Ok(manifest)
    }
}
