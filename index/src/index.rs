//! An open index: verified once, then searched.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::files::{self, MappedFile};
use crate::graph;
use crate::links::{Links, Words};
use crate::manifest::{Fingerprints, GraphParameters, MANIFEST_FILE, Manifest};
use crate::nearest::{Graph, nearest};
use crate::passages::{Passage, PassageStore};
use crate::scan::{self, Scored};
use crate::vectors::{VectorStore, normalised};

/// A passage that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The passage's number in the index.
    pub number: u32,
    /// The vector that found it, the best of the passage's.
    pub vector: u32,
    /// Cosine of query and vector, in f32.
    pub score: f32,
    /// The passage.
    pub passage: Passage,
}

/// Where the graph of an open index comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphState {
    /// There is none: the collection is scanned exactly.
    Exact,
    /// From its file.
    Loaded,
    /// Built from the vectors when the index was opened, because its file could not be used.
    Rebuilt {
        /// What was wrong with the file.
        reason: String,
    },
}

/// An open index. Shared between threads by reference; its files are mapped, not read.
pub struct Index {
    dir: PathBuf,
    manifest: Manifest,
    passages: PassageStore,
    vectors: VectorStore,
    graph: Option<Graph>,
    graph_state: GraphState,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = f.debug_struct("Index");
        index
            .field("dir", &self.dir)
            .field("manifest", &self.manifest);
        index.finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index in `dir` and verifies every file. A graph that is missing or damaged is
    /// built again from the vectors, with a warning in the log, and kept in memory.
    ///
    /// # Errors
    /// Each names the file: [`IndexError::NotAnIndex`], [`IndexError::Version`],
    /// [`IndexError::Length`], [`IndexError::ChecksumMismatch`], [`IndexError::Damaged`],
    /// [`IndexError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, IndexError> {
        let dir = dir.as_ref();
        let manifest = Manifest::read(dir)?;
        let passages = PassageStore::open(dir, &manifest)?;
        let vectors = VectorStore::open(dir, &manifest)?;
        let (graph, graph_state) = match &manifest.graph {
            None => (None, GraphState::Exact),
            Some(record) => {
                let (links, state) = load_or_build(dir, &manifest, &vectors, &record.parameters)?;
                let calibration = record.calibration;
                (Some(Graph { links, calibration }), state)
            }
        };
        Ok(Self {
            dir: dir.into(),
            manifest,
            passages,
            vectors,
            graph,
            graph_state,
        })
    }

    /// The directory that was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the index is and what made it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the graph comes from.
    pub fn graph_state(&self) -> &GraphState {
        &self.graph_state
    }

    /// Fails unless `model` made this index's vectors.
    ///
    /// # Errors
    /// [`IndexError::FingerprintMismatch`] names both.
    pub fn check_fingerprints(&self, model: &Fingerprints) -> Result<(), IndexError> {
        let differs = self.manifest.fingerprints.differences(model);
        if differs.is_empty() {
            return Ok(());
        }
        Err(IndexError::FingerprintMismatch {
            index: Box::new(self.manifest.fingerprints.clone()),
            model: Box::new(model.clone()),
            differs: differs.join(", "),
        })
    }

    /// The passage with a number from 0.
    ///
    /// # Errors
    /// [`IndexError::NoSuchPassage`] beyond the end.
    pub fn passage(&self, number: u32) -> Result<Passage, IndexError> {
        self.passages.get(number)
    }

    /// The passage with an id and its number, if there is one.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if it cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<(u32, Passage)>, IndexError> {
        self.passages.find(id)
    }

    /// The `k` passages nearest to a query embedding of any length, each once, by its best vector.
    /// Best first; of equal scores the passage with the lower number first.
    ///
    /// # Errors
    /// [`IndexError::Dimension`] or [`IndexError::NoDirection`] for a query that cannot be
    /// compared.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>, IndexError> {
        let query = normalised(query, self.vectors.dimension())?;
        let best = nearest(&self.vectors, self.graph.as_ref(), &query, k, None)?;
        self.hits(best)
    }

    /// [`Index::search`] by comparing every vector: what a search through the graph is judged by.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_exact(&self, query: &[f32], k: usize) -> Result<Vec<Hit>, IndexError> {
        let query = normalised(query, self.vectors.dimension())?;
        self.hits(scan::exact(&self.vectors, &query, k, None)?)
    }

    fn hits(&self, best: Vec<Scored>) -> Result<Vec<Hit>, IndexError> {
        best.into_iter()
            .map(|Scored { score, vector }| {
                let number = self.vectors.owners()[vector as usize];
                Ok(Hit {
                    number,
                    vector,
                    score,
                    passage: self.passages.get(number)?,
                })
            })
            .collect()
    }
}

fn load_or_build(
    dir: &Path,
    manifest: &Manifest,
    vectors: &VectorStore,
    parameters: &GraphParameters,
) -> Result<(Links, GraphState), IndexError> {
    let manifest_file = dir.join(MANIFEST_FILE);
    if vectors.count() == 0 {
        return Err(IndexError::damaged(
            &manifest_file,
            "it names a graph over no vectors",
        ));
    }
    parameters
        .check()
        .map_err(|e| IndexError::damaged(&manifest_file, e.to_string()))?;
    let loaded = MappedFile::verified(dir, files::GRAPH, manifest).and_then(|file| {
        Links::parse(Words::Mapped(file), vectors.count())
            .map_err(|reason| IndexError::damaged(&dir.join(files::GRAPH), reason))
    });
    match loaded {
        Ok(links) => Ok((links, GraphState::Loaded)),
        Err(error) => {
            tracing::warn!(%error, vectors = vectors.count(), "the graph cannot be used and is built again from the vectors");
            let links = graph::build(vectors.codes(), parameters, |_| ())?;
            Ok((
                links,
                GraphState::Rebuilt {
                    reason: error.to_string(),
                },
            ))
        }
    }
}
