//! Vectors on disk: unit f32 rows, their int8 codes, and the passage that each belongs to.

use std::ops::Range;
use std::path::Path;

use crate::codes::{CodeWriter, Codes};
use crate::error::IndexError;
use crate::files::{self, MappedFile, TrackedFile};
use crate::manifest::{FileRecord, Manifest};

/// Scales a vector to length 1, so that a dot product is a cosine.
pub(crate) fn normalised(vector: &[f32], dimension: usize) -> Result<Vec<f32>, IndexError> {
    if vector.len() != dimension {
        return Err(IndexError::Dimension {
            expected: dimension,
            got: vector.len(),
        });
    }
    // In f64, where the squares of no f32 overflow or vanish.
    let norm = vector
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    if !norm.is_finite() {
        return Err(IndexError::NoDirection {
            reason: "it holds a NaN or an infinity",
        });
    }
    if norm == 0.0 {
        return Err(IndexError::NoDirection {
            reason: "it is zero",
        });
    }
    Ok(vector
        .iter()
        .map(|&x| (f64::from(x) / norm) as f32)
        .collect())
}

/// Streams vectors to disk.
pub(crate) struct VectorWriter {
    rows: TrackedFile,
    codes: CodeWriter,
    owners: TrackedFile,
    count: u32,
}

impl VectorWriter {
    pub(crate) fn create(dir: &Path, dimension: usize) -> Result<Self, IndexError> {
        Ok(Self {
            rows: TrackedFile::create(dir.join(files::VECTORS))?,
            codes: CodeWriter::create(dir, dimension)?,
            owners: TrackedFile::create(dir.join(files::OWNERS))?,
            count: 0,
        })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Fails if `more` vectors are too many.
    pub(crate) fn accepts(&self, more: usize) -> Result<(), IndexError> {
        const LIMIT: u64 = u32::MAX as u64;
        if u64::from(self.count) + more as u64 > LIMIT {
            return Err(IndexError::TooLarge {
                what: "vectors",
                limit: LIMIT,
            });
        }
        Ok(())
    }

    /// Writes a unit vector of the passage `owner`; owners never decrease.
    pub(crate) fn push(&mut self, owner: u32, unit: &[f32]) -> Result<(), IndexError> {
        self.count += 1;
        self.rows.write(bytemuck::cast_slice(unit))?;
        self.codes.push(unit)?;
        self.owners.write(&owner.to_le_bytes())
    }

    pub(crate) fn finish(self) -> Result<[(&'static str, FileRecord); 4], IndexError> {
        let [codes, scales] = self.codes.finish()?;
        Ok([
            codes,
            scales,
            (files::VECTORS, self.rows.finish()?),
            (files::OWNERS, self.owners.finish()?),
        ])
    }
}

/// The vectors of an index, mapped.
pub(crate) struct VectorStore {
    rows: MappedFile,
    codes: Codes,
    owners: MappedFile,
    dimension: usize,
}

impl VectorStore {
    /// Opens what a [`VectorWriter`] of this process has just written.
    pub(crate) fn open_written(dir: &Path, dimension: usize) -> Result<Self, IndexError> {
        Ok(Self {
            rows: MappedFile::open(dir.join(files::VECTORS))?,
            codes: Codes::open_written(dir, dimension)?,
            owners: MappedFile::open(dir.join(files::OWNERS))?,
            dimension,
        })
    }

    pub(crate) fn open(dir: &Path, manifest: &Manifest) -> Result<Self, IndexError> {
        let store = Self {
            rows: MappedFile::verified(dir, files::VECTORS, manifest)?,
            codes: Codes::open(dir, manifest)?,
            owners: MappedFile::verified(dir, files::OWNERS, manifest)?,
            dimension: manifest.dimension as usize,
        };
        if store.dimension == 0 {
            return Err(store.rows.damaged("its vectors have no dimensions"));
        }
        let row = size_of::<f32>() as u64 * u64::from(manifest.dimension);
        store.rows.expect(manifest.vectors.into(), row)?;
        store
            .owners
            .expect(manifest.vectors.into(), size_of::<u32>() as u64)?;
        // Invariant: the vectors of a passage stand together, in passage order, and no passage is
        // without.
        let owners = store.owners();
        let ends = match owners {
            [] => manifest.passages == 0,
            [first, .., last] => *first == 0 && last.checked_add(1) == Some(manifest.passages),
            [only] => *only == 0 && manifest.passages == 1,
        };
        if !ends || owners.windows(2).any(|w| w[1] < w[0] || w[1] - w[0] > 1) {
            return Err(store
                .owners
                .damaged("the vectors do not cover the passages in order"));
        }
        Ok(store)
    }

    pub(crate) fn count(&self) -> usize {
        self.owners().len()
    }

    /// Number of passages.
    pub(crate) fn passages(&self) -> usize {
        // Owners begin at 0 and never skip one.
        self.owners().last().map_or(0, |last| *last as usize + 1)
    }

    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// The unit row of one vector.
    pub(crate) fn row(&self, vector: u32) -> Result<&[f32], IndexError> {
        self.rows(vector..vector + 1)
    }

    /// Unit rows, one after the other: (vectors, dimension).
    pub(crate) fn rows(&self, vectors: Range<u32>) -> Result<&[f32], IndexError> {
        let (from, to) = (vectors.start as usize, vectors.end as usize);
        Ok(&self.rows.numbers()[from * self.dimension..to * self.dimension])
    }

    /// The int8 codes of the rows.
    pub(crate) fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The passage of each vector.
    pub(crate) fn owners(&self) -> &[u32] {
        self.owners.numbers()
    }
}
