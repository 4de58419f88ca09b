//! Vectors on disk: unit f32 rows, their int8 codes, and the passage that each belongs to.

use std::ops::Range;
use std::path::Path;

use crate::error::IndexError;
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::tracked::{TrackedFile, WrittenFile};
use crate::segment::codes::{CodeWriter, Codes};

/// Unit vectors: f32, one after the other.
const VECTORS: &str = "vectors.f32";
/// The passage of each vector: u32.
const OWNERS: &str = "vectors.passages";

/// Scales a vector to length 1, so that a dot product is a cosine.
pub(crate) fn normalised(vector: &[f32], dimension: usize) -> Result<Vec<f32>, IndexError> {
    if vector.len() != dimension {
        return Err(IndexError::Dimension {
            expected: dimension,
            got: vector.len(),
        });
    }
    // The norm is computed in f64, in which squares of f32 numbers neither overflow nor become
    // zero.
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
            rows: TrackedFile::create(dir.join(VECTORS))?,
            codes: CodeWriter::create(dir, dimension)?,
            owners: TrackedFile::create(dir.join(OWNERS))?,
            count: 0,
        })
    }

    /// Continues after the first `vectors` of an interrupted writer.
    pub(crate) fn resume(dir: &Path, vectors: u32, dimension: usize) -> Result<Self, IndexError> {
        let bytes = |width: usize| u64::from(vectors) * width as u64;
        Ok(Self {
            rows: TrackedFile::resume(dir.join(VECTORS), bytes(size_of::<f32>() * dimension))?,
            codes: CodeWriter::resume(dir, vectors, dimension)?,
            owners: TrackedFile::resume(dir.join(OWNERS), bytes(size_of::<u32>()))?,
            count: vectors,
        })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Syncs what was written so far to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.rows.sync()?;
        self.codes.sync()?;
        self.owners.sync()
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

    pub(crate) fn finish(self) -> Result<[(&'static str, WrittenFile); 4], IndexError> {
        let [codes, scales] = self.codes.finish()?;
        Ok([
            codes,
            scales,
            (VECTORS, self.rows.finish()?),
            (OWNERS, self.owners.finish()?),
        ])
    }
}

/// The vectors of a segment, mapped.
pub(crate) struct VectorStore {
    rows: CheckedFile,
    codes: Codes,
    owners: CheckedFile,
    dimension: usize,
}

impl VectorStore {
    /// Opens what a [`VectorWriter`] of this process has just written.
    pub(crate) fn open_written(dir: &Path, dimension: usize) -> Result<Self, IndexError> {
        Ok(Self {
            rows: CheckedFile::written(dir.join(VECTORS))?,
            codes: Codes::open_written(dir, dimension)?,
            owners: CheckedFile::written(dir.join(OWNERS))?,
            dimension,
        })
    }

    pub(crate) fn open(
        files: &FileSet<'_>,
        vectors: u32,
        passages: u32,
        dimension: usize,
    ) -> Result<Self, IndexError> {
        let store = Self {
            rows: files.map(VECTORS)?,
            codes: Codes::open(files, vectors, dimension)?,
            owners: files.map_verified(OWNERS)?,
            dimension,
        };
        store
            .rows
            .expect(vectors.into(), (size_of::<f32>() * dimension) as u64)?;
        store
            .owners
            .expect(vectors.into(), size_of::<u32>() as u64)?;
        // Invariant: the vectors of a passage follow one another, in passage order, and every
        // passage has at least one.
        let owners = store.owners();
        let ends = match owners {
            [] => passages == 0,
            [first, .., last] => *first == 0 && last.checked_add(1) == Some(passages),
            [only] => *only == 0 && passages == 1,
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

    /// Numbers in a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of passages.
    pub(crate) fn passages(&self) -> usize {
        // Owners begin at 0 and never skip one.
        self.owners().last().map_or(0, |last| *last as usize + 1)
    }

    /// The unit row of one vector.
    pub(crate) fn row(&self, vector: u32) -> Result<&[f32], IndexError> {
        self.rows(vector..vector + 1)
    }

    /// Unit rows, one after the other: (vectors, dimension).
    pub(crate) fn rows(&self, vectors: Range<u32>) -> Result<&[f32], IndexError> {
        let width = size_of::<f32>() * self.dimension;
        let bytes = self
            .rows
            .bytes(vectors.start as usize * width..vectors.end as usize * width)?;
        // A mapping begins at a page and rows are whole numbers.
        Ok(bytemuck::try_cast_slice(bytes).unwrap_or_default())
    }

    /// The int8 codes of the rows.
    pub(crate) fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The passage of each vector.
    pub(crate) fn owners(&self) -> &[u32] {
        self.owners.numbers()
    }

    /// The vectors of a passage.
    pub(crate) fn of_passage(&self, row: u32) -> Range<u32> {
        let owners = self.owners();
        let start = owners.partition_point(|&owner| owner < row);
        let count = owners[start..].partition_point(|&owner| owner == row);
        start as u32..(start + count) as u32
    }

    /// Reads everything and says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.rows.verify()?;
        self.codes.verify()
    }
}
