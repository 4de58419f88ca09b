//! The vectors of the delta in the two forms that a search compares first: sketches and int8 codes.
//!
//! They stand in chunks, one after the other. Snapshots share the chunks, and only the last one grows, so
//! a batch of changes copies at most one chunk.

use std::ops::Range;
use std::sync::Arc;

use crate::live::sketch::{CentredQuery, Rotation, RoundedQuery, Sketch, SketchList};
use crate::segment::codes::{Estimate, encode, stride};
use crate::segment::search::dot_i8::prefetch;
use crate::segment::search::score::dot;

/// Vectors in a chunk: 277 kB at 896 dimensions.
const CHUNK: usize = 256;

/// Vectors in the order of their rows. A clone is not changed by what is pushed to the original.
#[derive(Clone)]
pub(crate) struct DeltaVectors {
    dimension: usize,
    rotation: Arc<Rotation>,
    /// All but the last are full.
    chunks: Vec<Arc<Chunk>>,
    /// How many rows were dropped from the front. Chunks number their rows without regard to it.
    dropped: u64,
    means: RunningMean,
    /// The rotated vectors of the last chunk.
    rotated: Vec<Arc<[f32]>>,
}

#[derive(Clone)]
struct Chunk {
    /// What queries are prepared with.
    origin: Arc<Vec<f32>>,
    /// The mean of its vectors once it is full, and its origin before.
    centre: Arc<Vec<f32>>,
    /// The square of its length.
    centre_square: f32,
    /// The row of each vector, ascending.
    rows: Vec<u64>,
    /// (vectors, stride)
    numbers: Vec<i8>,
    /// Scale and error of each code.
    scales: Vec<[f32; 2]>,
    sketches: SketchList,
    stride: usize,
}

/// The mean of all rotated vectors so far, of which origins are made.
#[derive(Clone)]
struct RunningMean {
    sum: Vec<f32>,
    vectors: usize,
    /// How many vectors the last origin was made of.
    last: usize,
}

/// A query, which is prepared again only where the origin changes.
pub(crate) struct SketchQuery {
    rotated: Vec<f32>,
    rounded: Option<(Arc<Vec<f32>>, RoundedQuery)>,
}

impl DeltaVectors {
    pub(crate) fn new(dimension: usize) -> Self {
        let rotation = Rotation::new(dimension);
        Self {
            dimension,
            chunks: Vec::new(),
            dropped: 0,
            means: RunningMean {
                sum: vec![0.0; rotation.width()],
                vectors: 0,
                last: 0,
            },
            rotated: Vec::new(),
            rotation: Arc::new(rotation),
        }
    }

    /// Numbers in a vector.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Appends the unit vectors of a passage: (vectors, dimension). Rows come in ascending order.
    pub(crate) fn push(&mut self, row: usize, units: &[f32]) {
        let row = self.dropped + row as u64;
        for unit in units.chunks_exact(self.dimension) {
            let last = self.chunks.last();
            if last.is_none_or(|chunk| chunk.rows.len() == CHUNK) {
                let origin = self.means.origin(last.map(|chunk| &chunk.origin));
                self.chunks
                    .push(Arc::new(Chunk::new(origin, self.dimension)));
                self.rotated.clear();
            }
            let rotated = self.rotation.rotate(unit);
            self.means.add(&rotated);
            self.rotated.push(rotated.into());
            if let (Some(chunk), Some(rotated)) = (self.chunks.last_mut(), self.rotated.last()) {
                let chunk = Arc::make_mut(chunk);
                chunk.push(row, unit, rotated);
                if chunk.rows.len() == CHUNK {
                    chunk.centre_on_mean(&self.rotated);
                }
            }
        }
    }

    /// Drops the vectors of the rows before one, which becomes row 0.
    pub(crate) fn drop_before(&mut self, row: usize) {
        self.dropped += row as u64;
        let is_dropped = |chunk: &Arc<Chunk>| chunk.rows.last() < Some(&self.dropped);
        let whole = self.chunks.partition_point(is_dropped);
        self.chunks.drain(..whole);
    }

    /// The row of a vector.
    pub(crate) fn row(&self, vector: u32) -> u32 {
        let (chunk, place) = self.place(vector);
        (chunk.rows[place] - self.dropped) as u32
    }

    /// The code of a vector: numbers, scale and error.
    pub(crate) fn code(&self, vector: u32) -> (&[i8], [f32; 2]) {
        let (chunk, place) = self.place(vector);
        chunk.code(place)
    }

    /// Asks the processor to bring a code into its cache.
    pub(crate) fn prefetch(&self, vector: u32) {
        let (chunk, place) = self.place(vector);
        prefetch(chunk.code(place).0);
    }

    fn place(&self, vector: u32) -> (&Chunk, usize) {
        let vector = vector as usize;
        (&self.chunks[vector / CHUNK], vector % CHUNK)
    }

    /// The vectors of some rows with their codes.
    pub(crate) fn codes(
        &self,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (u32, (&[i8], [f32; 2]))> {
        self.chunks(rows).flat_map(|(number, chunk, vectors)| {
            let code = move |vector| ((number * CHUNK + vector) as u32, chunk.code(vector));
            vectors.map(code)
        })
    }

    /// The chunks that hold some rows, each with its number and its vectors of these rows.
    fn chunks(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, &Chunk, Range<usize>)> {
        let [start, end] = [rows.start, rows.end].map(|row| self.dropped + row as u64);
        let first = self
            .chunks
            .partition_point(|chunk| chunk.rows.last() < Some(&start));
        let after = self
            .chunks
            .partition_point(|chunk| chunk.rows.first() < Some(&end));
        (first..after).map(move |number| {
            let chunk = self.chunks[number].as_ref();
            // Only at its two ends a range can hold a part of a chunk.
            let before = |row: u64| chunk.rows.partition_point(|&other| other < row);
            let from = if number == first { before(start) } else { 0 };
            let all = number + 1 < after;
            let to = if all { chunk.rows.len() } else { before(end) };
            (number, chunk, from..to)
        })
    }

    /// Prepares a query, which is a unit vector.
    pub(crate) fn sketch_query(&self, unit: &[f32]) -> SketchQuery {
        SketchQuery {
            rotated: self.rotation.rotate(unit),
            rounded: None,
        }
    }

    /// Estimates the scores of the vectors of some rows, and calls `visit` with each that may reach a
    /// score. That score is at first `reached`, then what `visit` returned last.
    pub(crate) fn scan_sketches(
        &self,
        rows: Range<usize>,
        query: &mut SketchQuery,
        mut reached: f32,
        mut visit: impl FnMut(u32, Estimate) -> f32,
    ) {
        for (number, chunk, vectors) in self.chunks(rows) {
            let query = query.centred_on(chunk);
            let first = number * CHUNK;
            reached = chunk
                .sketches
                .scan(vectors, &query, reached, |vector, estimate| {
                    visit((first + vector) as u32, estimate)
                });
        }
    }
}

impl Chunk {
    fn new(origin: Arc<Vec<f32>>, dimension: usize) -> Self {
        Self {
            stride: stride(dimension),
            centre: origin.clone(),
            centre_square: dot(&origin, &origin),
            origin,
            rows: Vec::new(),
            numbers: Vec::new(),
            scales: Vec::new(),
            sketches: SketchList::default(),
        }
    }

    fn push(&mut self, row: u64, unit: &[f32], rotated: &[f32]) {
        let start = self.numbers.len();
        self.numbers.resize(start + self.stride, 0);
        self.scales.push(encode(unit, &mut self.numbers[start..]));
        let sketch = Sketch::new(rotated, &self.centre, &self.origin);
        self.sketches.push(&sketch);
        self.rows.push(row);
    }

    /// Sketches its vectors again, with their mean as the centre. Vectors that come one after the other may
    /// be of one topic: then they share a direction, and so an error, wherever else the centre is.
    fn centre_on_mean(&mut self, rotated: &[Arc<[f32]>]) {
        let mut mean = vec![0.0; self.origin.len()];
        let share = 1.0 / rotated.len().max(1) as f32;
        for vector in rotated {
            for (mean, x) in mean.iter_mut().zip(vector.iter()) {
                *mean += share * x;
            }
        }
        self.sketches = SketchList::default();
        for vector in rotated {
            self.sketches
                .push(&Sketch::new(vector, &mean, &self.origin));
        }
        self.centre_square = dot(&mean, &mean);
        self.centre = Arc::new(mean);
    }

    fn code(&self, vector: usize) -> (&[i8], [f32; 2]) {
        let start = vector * self.stride;
        let numbers = &self.numbers[start..start + self.stride];
        (numbers, self.scales[vector])
    }
}

impl RunningMean {
    fn add(&mut self, rotated: &[f32]) {
        for (sum, x) in self.sum.iter_mut().zip(rotated) {
            *sum += x;
        }
        self.vectors += 1;
    }

    /// The origin of a new chunk: the mean whenever the vectors are four times as many, and else that of
    /// the chunk before, so that a search meets few origins. Embeddings of one model share a large part, and
    /// less is lost by rounding a query that lacks it.
    fn origin(&mut self, before: Option<&Arc<Vec<f32>>>) -> Arc<Vec<f32>> {
        match before {
            Some(before) if self.vectors < 4 * self.last => before.clone(),
            _ => {
                self.last = self.vectors;
                let share = 1.0 / self.vectors.max(1) as f32;
                Arc::new(self.sum.iter().map(|sum| sum * share).collect())
            }
        }
    }
}

impl SketchQuery {
    fn centred_on(&mut self, chunk: &Chunk) -> CentredQuery<'_> {
        let (rotated, origin) = (&self.rotated, &chunk.origin);
        self.rounded
            .take_if(|(known, _)| !Arc::ptr_eq(known, origin));
        let new = || (origin.clone(), RoundedQuery::new(rotated, origin));
        let (_, rounded) = self.rounded.get_or_insert_with(new);
        CentredQuery::new(rounded, rotated, &chunk.centre, chunk.centre_square)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::vectors::normalised;
    use crate::testing::clustered;

    const DIMENSION: usize = 100;

    fn units(count: usize) -> Vec<Vec<f32>> {
        let vectors = clustered(6, count, DIMENSION, 5).into_iter();
        vectors
            .map(|v| normalised(&v, DIMENSION).unwrap().to_vec())
            .collect()
    }

    /// A row for every two vectors, from row 0 on.
    fn push(vectors: &mut DeltaVectors, units: &[Vec<f32>]) {
        let first = vectors.codes(0..usize::MAX >> 1).count() / 2;
        for (row, pair) in (first..).zip(units.chunks(2)) {
            vectors.push(row, &pair.concat());
        }
    }

    /// The rows, codes and estimates of all vectors of some rows are those of `units`, two for each row.
    fn are_those_of(vectors: &DeltaVectors, rows: Range<usize>, units: &[Vec<f32>]) {
        let mut codes = Vec::new();
        for (vector, (numbers, scale)) in vectors.codes(rows.clone()) {
            assert_eq!(vectors.code(vector), (numbers, scale));
            codes.push((vectors.row(vector), numbers.to_vec(), scale));
        }
        let encoded = units.iter().enumerate().map(|(n, unit)| {
            let mut numbers = vec![0; stride(DIMENSION)];
            let scale = encode(unit, &mut numbers);
            ((rows.start + n / 2) as u32, numbers, scale)
        });
        assert_eq!(codes, encoded.collect::<Vec<_>>());

        let query = &units[0];
        let mut sketched = vectors.sketch_query(query);
        let (mut seen, mut squares) = (Vec::new(), 0.0);
        vectors.scan_sketches(
            rows.clone(),
            &mut sketched,
            f32::NEG_INFINITY,
            |v, estimate| {
                let unit = &units[seen.len()];
                squares += (estimate.score - dot(query, unit)).powi(2);
                seen.push(vectors.row(v));
                f32::NEG_INFINITY
            },
        );
        let wanted = (0..units.len()).map(|n| (rows.start + n / 2) as u32);
        assert_eq!(seen, wanted.collect::<Vec<_>>());
        // Estimates of other vectors would be off by about .5.
        let usual = (squares / units.len() as f32).sqrt();
        assert!(usual < 0.1, "{usual}");
    }

    #[test]
    fn a_snapshot_keeps_its_vectors_while_others_are_pushed() {
        let units = units(2_000);
        let mut vectors = DeltaVectors::new(DIMENSION);
        push(&mut vectors, &units[..700]);
        let before = vectors.clone();
        push(&mut vectors, &units[700..]);
        are_those_of(&before, 0..350, &units[..700]);
        assert_eq!(before.codes(0..1_000).count(), 700);
        are_those_of(&vectors, 0..1_000, &units);
        // Full chunks are shared, and the one that had grown was copied.
        for number in 0..2 {
            assert!(Arc::ptr_eq(&before.chunks[number], &vectors.chunks[number]));
        }
        assert!(!Arc::ptr_eq(&before.chunks[2], &vectors.chunks[2]));
    }

    #[test]
    fn any_range_of_rows_is_scanned() {
        let units = units(1_200);
        let mut vectors = DeltaVectors::new(DIMENSION);
        push(&mut vectors, &units);
        for rows in [0..1, 3..5, 100..130, 127..129, 128..256, 250..600, 599..600] {
            are_those_of(&vectors, rows.clone(), &units[2 * rows.start..2 * rows.end]);
        }
        assert_eq!(vectors.codes(5..5).count(), 0);
        assert_eq!(vectors.codes(600..700).count(), 0);
    }

    #[test]
    fn what_stays_after_a_drop_is_found_under_its_new_rows() {
        let units = units(2_000);
        for dropped in [1, 127, 128, 200, 790] {
            let mut vectors = DeltaVectors::new(DIMENSION);
            push(&mut vectors, &units[..1_600]);
            let chunks = vectors.chunks.len();
            vectors.drop_before(dropped);
            assert_eq!(chunks - vectors.chunks.len(), 2 * dropped / CHUNK);
            let rest = &units[2 * dropped..];
            let mut row = 800 - dropped;
            for pair in units[1_600..].chunks(2) {
                vectors.push(row, &pair.concat());
                row += 1;
            }
            are_those_of(&vectors, 0..row, rest);
            if row > 300 {
                are_those_of(&vectors, 200..300, &rest[400..600]);
            }
        }
    }

    #[test]
    fn vectors_of_one_topic_do_not_share_an_error() {
        let mut vectors = DeltaVectors::new(DIMENSION);
        // 32 topics, each of which fills a chunk.
        let unit = |v: Vec<f32>| normalised(&v, DIMENSION).unwrap();
        let topics = (0..32).flat_map(|topic| clustered(topic, CHUNK, DIMENSION, 1));
        let units: Vec<Vec<f32>> = topics.map(unit).collect();
        push(&mut vectors, &units);
        let (mut shared, mut all) = (0.0, 0.0);
        for query in clustered(100, 20, DIMENSION, 20).into_iter().map(unit) {
            let mut errors = Vec::new();
            let mut sketched = vectors.sketch_query(&query);
            let scores = f32::NEG_INFINITY;
            vectors.scan_sketches(0..units.len(), &mut sketched, scores, |vector, estimate| {
                errors.push(estimate.score - dot(&query, &units[vector as usize]));
                scores
            });
            assert_eq!(errors.len(), units.len());
            for topic in errors.chunks(CHUNK) {
                shared += (topic.iter().sum::<f32>() / CHUNK as f32).powi(2) / 32.0;
            }
            all += errors.iter().map(|e| e * e).sum::<f32>() / errors.len() as f32;
        }
        // The mean of a topic's errors is as small as that of independent ones.
        println!("{shared} of {all}");
        assert!(shared < 0.03 * all, "{shared} of {all}");
    }

    #[test]
    fn a_query_meets_few_origins() {
        let units = units(6_000);
        let mut vectors = DeltaVectors::new(DIMENSION);
        push(&mut vectors, &units);
        let origins = vectors
            .chunks
            .iter()
            .map(|chunk| Arc::as_ptr(&chunk.origin));
        let origins: std::collections::HashSet<_> = origins.collect();
        // From 0, 256, 1,024 and 4,096 vectors on.
        assert_eq!(origins.len(), 4);
        let mean = vectors.chunks.last().unwrap().origin.clone();
        assert!(dot(&mean, &mean) > 0.1);
    }
}
