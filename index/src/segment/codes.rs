//! int8 codes of vectors. Walks and scans read the codes in memory; the exact f32 rows stay on disk.
//!
//! A unit vector r is coded as s·c. The whole numbers c within ±127 are r, scaled so that its largest
//! component is 127, and rounded. The scale s gives s·c length 1. (With any other scale, rounding makes
//! some codes longer than others. These seem nearer to everything, and in tight clusters the graph then
//! leads to them.) The norm of the error, ‖r − s·c‖, is stored beside the scale. By the Cauchy–Schwarz
//! inequality the product with a query q is known to within ‖q‖·‖r − s·c‖, which makes a scan of codes
//! exact ([`crate::segment::search::scan::exact`]).

use std::ops::Range;
use std::path::Path;

use crate::error::IndexError;
use crate::format::checked::{CheckedFile, FileSet};
use crate::format::tracked::{TrackedFile, WrittenFile};
use crate::segment::search::dot_i8::{LINE, dot_i8, prefetch};

/// int8 codes of the vectors, each padded to whole cache lines.
pub(crate) const CODES: &str = "vectors.i8";
/// The scale of each code and the norm of its error: two f32 a vector.
const SCALES: &str = "vectors.scales";

const LARGEST: f64 = 127.0;

/// A coded vector.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Code<'c> {
    /// Whole numbers within ±127, padded with zeros to whole lines.
    pub(crate) numbers: &'c [i8],
    /// The factor that the numbers are multiplied by.
    pub(crate) scale: f32,
}

impl Code<'_> {
    /// The approximate cosine of two unit vectors.
    #[inline(always)]
    pub(crate) fn dot(&self, other: Code<'_>) -> f32 {
        // The scales are multiplied first, so that exchanging the two codes gives the same number.
        dot_i8(self.numbers, other.numbers) as f32 * (self.scale * other.scale)
    }
}

/// Bytes of a row of codes.
pub(crate) fn stride(dimension: usize) -> usize {
    dimension.next_multiple_of(LINE)
}

/// The norm of `vector − numbers·scale`. Rounding never makes it too low.
fn error(vector: &[f32], numbers: impl Iterator<Item = f64>, scale: f64) -> f32 {
    let lost = |(&x, number): (&f32, f64)| (f64::from(x) - number * scale).powi(2);
    let squares: f64 = vector.iter().zip(numbers).map(lost).sum();
    // The rounding error of f64 sums of this length is smaller than what is added here.
    (squares.sqrt() * (1.0 + 1e-9)) as f32 * (1.0 + f32::EPSILON) + f32::MIN_POSITIVE
}

fn largest(vector: &[f32]) -> f64 {
    vector
        .iter()
        .fold(0.0, |m: f64, &x| m.max(f64::from(x).abs()))
}

/// Codes `unit` into `numbers` and returns its scale and error.
pub(crate) fn encode(unit: &[f32], numbers: &mut [i8]) -> [f32; 2] {
    let step = largest(unit) / LARGEST;
    for (number, &x) in numbers.iter_mut().zip(unit) {
        *number = (f64::from(x) / step).round().clamp(-LARGEST, LARGEST) as i8;
    }
    let codes = numbers.iter().map(|&c| f64::from(c));
    let norm = codes.clone().map(|c| c * c).sum::<f64>().sqrt();
    // A vector without direction has codes of zero, and its whole length is the error.
    let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 1.0 };
    [scale, error(unit, codes, scale.into())]
}

/// Streams codes to disk.
pub(crate) struct CodeWriter {
    numbers: TrackedFile,
    scales: TrackedFile,
    row: Vec<i8>,
}

impl CodeWriter {
    pub(crate) fn create(dir: &Path, dimension: usize) -> Result<Self, IndexError> {
        Ok(Self {
            numbers: TrackedFile::create(dir.join(CODES))?,
            scales: TrackedFile::create(dir.join(SCALES))?,
            row: vec![0; stride(dimension)],
        })
    }

    /// Continues after the first `vectors` of an interrupted writer.
    pub(crate) fn resume(dir: &Path, vectors: u32, dimension: usize) -> Result<Self, IndexError> {
        let bytes = |width: usize| u64::from(vectors) * width as u64;
        let stride = stride(dimension);
        Ok(Self {
            numbers: TrackedFile::resume(dir.join(CODES), bytes(stride))?,
            scales: TrackedFile::resume(dir.join(SCALES), bytes(size_of::<[f32; 2]>()))?,
            row: vec![0; stride],
        })
    }

    /// Puts what was written so far on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.numbers.sync()?;
        self.scales.sync()
    }

    pub(crate) fn push(&mut self, unit: &[f32]) -> Result<(), IndexError> {
        let scale = encode(unit, &mut self.row);
        self.numbers.write(bytemuck::cast_slice(&self.row))?;
        self.scales.write(bytemuck::cast_slice(&scale))
    }

    pub(crate) fn finish(self) -> Result<[(&'static str, WrittenFile); 2], IndexError> {
        Ok([
            (CODES, self.numbers.finish()?),
            (SCALES, self.scales.finish()?),
        ])
    }
}

/// The codes of an index, mapped.
pub(crate) struct Codes {
    numbers: CheckedFile,
    scales: CheckedFile,
    stride: usize,
}

impl Codes {
    /// Opens what a [`CodeWriter`] of this process has just written.
    pub(crate) fn open_written(dir: &Path, dimension: usize) -> Result<Self, IndexError> {
        Ok(Self {
            numbers: CheckedFile::written(dir.join(CODES))?,
            scales: CheckedFile::written(dir.join(SCALES))?,
            stride: stride(dimension),
        })
    }

    /// Opens the codes, which are verified block by block when they are read, and the scales, which
    /// are verified now.
    pub(crate) fn open(
        files: &FileSet<'_>,
        vectors: u32,
        dimension: usize,
    ) -> Result<Self, IndexError> {
        let codes = Self {
            numbers: files.map(CODES)?,
            scales: files.map_verified(SCALES)?,
            stride: stride(dimension),
        };
        let count = vectors.into();
        codes.numbers.expect(count, codes.stride as u64)?;
        codes.scales.expect(count, size_of::<[f32; 2]>() as u64)?;
        Ok(codes)
    }

    /// Reads everything and says what is wrong.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        self.numbers.verify()
    }

    pub(crate) fn count(&self) -> usize {
        self.scales.numbers::<[f32; 2]>().len()
    }

    pub(crate) fn damaged(&self, reason: &str) -> IndexError {
        self.scales.damaged(reason)
    }

    /// Bytes of a row.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The code of one vector.
    #[inline(always)]
    pub(crate) fn code(&self, vector: u32) -> Result<Code<'_>, IndexError> {
        let from = vector as usize * self.stride;
        Ok(Code {
            numbers: bytemuck::cast_slice(self.numbers.bytes(from..from + self.stride)?),
            scale: self.scales.numbers::<[f32; 2]>()[vector as usize][0],
        })
    }

    /// Rows of codes, one after the other, for reading in order.
    pub(crate) fn rows(&self, vectors: Range<u32>) -> Result<&[i8], IndexError> {
        let (from, to) = (vectors.start as usize, vectors.end as usize);
        let bytes = self.numbers.bytes(from * self.stride..to * self.stride)?;
        Ok(bytemuck::cast_slice(bytes))
    }

    /// Scale and error of each vector.
    pub(crate) fn scales(&self, vectors: Range<u32>) -> Result<&[[f32; 2]], IndexError> {
        Ok(&self.scales.numbers()[vectors.start as usize..vectors.end as usize])
    }

    /// Prefetches a code that will soon be read.
    #[inline(always)]
    pub(crate) fn prefetch(&self, vector: u32) {
        let from = vector as usize * self.stride;
        if let Some(row) = self.numbers.numbers().get(from..from + self.stride) {
            prefetch(row);
        }
    }
}

// q ≈ step·(HIGH·high + low).
const HIGH: i32 = 254;

/// A unit query, coded in two parts of 8 bits. Its own error is then negligible, and only the
/// vector's error counts.
pub(crate) struct QueryCode {
    high: Vec<i8>,
    low: Vec<i8>,
    step: f32,
    norm: f32,
    error: f32,
    high_error: f32,
    rounding: f32,
    random_share: f32,
}

/// A cosine with an error bound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) score: f32,
    /// The largest possible difference from the true score.
    pub(crate) within: f32,
}

impl Estimate {
    /// The lowest score that is possible.
    #[inline(always)]
    pub(crate) fn at_least(self) -> f32 {
        self.score - self.within
    }

    /// The highest score that is possible.
    #[inline(always)]
    pub(crate) fn at_most(self) -> f32 {
        self.score + self.within
    }
}

impl QueryCode {
    pub(crate) fn new(unit: &[f32]) -> Self {
        // With one step more, `high` would round up to 128.
        let steps = LARGEST * f64::from(HIGH + 1) - 1.0;
        let step = (largest(unit) / steps) as f32;
        let step = if step > 0.0 { step } else { 1.0 };
        let stride = stride(unit.len());
        let (mut high, mut low) = (vec![0; stride], vec![0; stride]);
        for (i, &x) in unit.iter().enumerate() {
            let whole = (f64::from(x) / f64::from(step))
                .round()
                .clamp(-steps, steps);
            let part = (whole / f64::from(HIGH)).round();
            high[i] = part as i8;
            low[i] = (whole - part * f64::from(HIGH)) as i8;
        }
        let whole = high.iter().zip(&low);
        let whole = whole.map(|(&h, &l)| f64::from(i32::from(h) * HIGH + i32::from(l)));
        let high_only = high.iter().map(|&h| f64::from(i32::from(h) * HIGH));
        Self {
            step,
            norm: error(unit, std::iter::repeat(0.0), 1.0),
            error: error(unit, whole, step.into()),
            high_error: error(unit, high_only, step.into()),
            // This bounds the rounding error of `scan::dot`: each lane adds length/16 products,
            // then the lanes and the rest are added. The remaining steps cover the estimate's own
            // conversions.
            rounding: (unit.len() as f32 / 16.0 + 64.0) * f32::EPSILON,
            random_share: (6.0 / (unit.len() as f32).sqrt()).min(1.0),
            high,
            low,
        }
    }

    /// The upper 8 bits: enough to walk a graph.
    pub(crate) fn coarse(&self) -> Code<'_> {
        Code {
            numbers: &self.high,
            scale: self.step * HIGH as f32,
        }
    }

    /// The largest error of [`Code::dot`] between [`QueryCode::coarse`] and a code with the given
    /// error.
    pub(crate) fn coarse_within(&self, error: f32) -> f32 {
        self.norm * error + self.high_error * (1.0 + error) + self.rounding
    }

    /// A bound of the same error that practically always holds. The error of a code has practically a
    /// random direction, so its product with a query is about 1/√dimension of its norm. The bound is six
    /// times that, and recall is measured with it.
    #[inline(always)]
    pub(crate) fn coarse_probably_within(&self, error: f32) -> f32 {
        self.random_share * self.coarse_within(error)
    }

    /// An upper bound of the cosine with a row of codes, for half the work of an estimate.
    #[inline(always)]
    pub(crate) fn at_most(&self, numbers: &[i8], [scale, error]: [f32; 2]) -> f32 {
        self.coarse().dot(Code { numbers, scale }) + self.coarse_within(error)
    }

    /// The cosine with a row of codes, within bounds that always hold.
    #[inline(always)]
    pub(crate) fn estimate(&self, numbers: &[i8], [scale, error]: [f32; 2]) -> Estimate {
        let high = i64::from(dot_i8(&self.high, numbers));
        let low = i64::from(dot_i8(&self.low, numbers));
        let whole = (high * i64::from(HIGH) + low) as f64;
        Estimate {
            score: (whole * f64::from(self.step) * f64::from(scale)) as f32,
            within: self.norm * error + self.error * (1.0 + error) + self.rounding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::search::score::dot;
    use crate::segment::vectors::normalised;
    use proptest::prelude::*;

    fn numbers() -> impl Strategy<Value = f32> {
        prop_oneof![
            -1.0f32..1.0,
            Just(0.0),
            Just(1e-30),
            -1e-6f32..1e-6,
            100.0f32..101.0
        ]
    }

    proptest! {
        #[test]
        fn the_true_score_lies_within_the_bounds_of_its_estimate(
            pairs in prop::collection::vec((numbers(), numbers()), 1..300),
        ) {
            let (row, query): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let (Ok(row), Ok(query)) = (normalised(&row, row.len()), normalised(&query, query.len())) else {
                return Ok(());
            };
            let mut code = vec![0; stride(row.len())];
            let scale = encode(&row, &mut code);
            let coded = QueryCode::new(&query);
            let truth = dot(&query, &row);
            let estimate = coded.estimate(&code, scale);
            prop_assert!((estimate.score - truth).abs() <= estimate.within, "{estimate:?} {truth}");
            let coarse = coded.coarse().dot(Code { numbers: &code, scale: scale[0] });
            prop_assert!((coarse - truth).abs() <= coded.coarse_within(scale[1]));
        }
    }
}
