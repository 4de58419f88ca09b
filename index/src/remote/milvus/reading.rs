//! All of a collection in Milvus, read in order: what exact searches and checks are made of.

use super::collection::{ALL, ARRIVED, LONG, MilvusCollection};
use super::rows;
use super::schema::{EMBEDDING, ID, PART, SEQUENCE};
use crate::error::IndexError;
use crate::live::hit::{Hit, SearchOptions};
use crate::remote::nearest::VectorHit;
use crate::remote::verification::RemoteVerification;
use crate::segment::passages::Passage;

/// Passages that are read at once: an answer of Milvus has up to some 100 MB.
const BATCH: i64 = 250;

impl MilvusCollection {
    /// For each query the vectors of the `k` nearest passages, by reading all vectors of the passages that meet a
    /// filter.
    pub(super) fn nearest_exactly(
        &self,
        queries: &[Vec<f32>],
        k: usize,
        filter: &str,
    ) -> Result<Vec<Vec<VectorHit>>, IndexError> {
        let mut nearest: Vec<Vec<VectorHit>> = vec![Vec::new(); queries.len()];
        self.each_passage(filter, |passage, sequence, vectors| {
            for (query, best) in queries.iter().zip(&mut nearest) {
                let scores = vectors.iter().map(|vector| dot(query, vector)).zip(0..);
                let Some((score, part)) = scores.max_by(|(a, _), (b, _)| a.total_cmp(b)) else {
                    continue;
                };
                // Passages come in order, so of equal ones the earlier stays before the later.
                let at = best.partition_point(|(hit, _)| hit.score >= score);
                if at < k {
                    let passage = passage.clone();
                    let hit = Hit {
                        score,
                        part,
                        passage,
                    };
                    best.insert(at, (hit, sequence));
                    best.truncate(k);
                }
            }
            Ok(())
        })?;
        Ok(nearest)
    }

    /// See [`crate::RemoteCollection::for_each`].
    pub(in crate::remote) fn for_each<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_passage("", |passage, _, vectors| each(passage, vectors))
    }

    /// All passages that meet a filter, with their places and their vectors, in the order of their places.
    fn each_passage<E: From<IndexError>>(
        &self,
        filter: &str,
        mut each: impl FnMut(&Passage, i64, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Milvus has no order of rows, so ranges of places are read that hold few enough. The index that was pushed
        // has one passage at each place; those that came later have the times of their changes as places.
        let pushed = self.description.pushed as i64;
        let dense = (0..pushed).step_by(BATCH as usize);
        let mut ranges: Vec<_> = dense
            .map(|from| (from, (from + BATCH).min(pushed)))
            .collect();
        // What is seen by this count has arrived for all reads after it.
        if self.count(&format!("{SEQUENCE} >= {pushed}"), ALL)? > 0 {
            ranges.push((pushed, i64::MAX));
        }
        ranges.reverse();
        while let Some((from, to)) = ranges.pop() {
            let mut range = format!("{SEQUENCE} >= {from} && {SEQUENCE} < {to}");
            if !filter.is_empty() {
                range = format!("{range} && {filter}");
            }
            if to - from > BATCH {
                match self.count(&range, ARRIVED)? {
                    0 => continue,
                    ..=BATCH => {}
                    _ => {
                        let middle = from + (to - from) / 2;
                        ranges.extend([(middle, to), (from, middle)]);
                        continue;
                    }
                }
            }
            self.each_passage_of(&range, &mut each)?;
        }
        Ok(())
    }

    fn each_passage_of<E: From<IndexError>>(
        &self,
        range: &str,
        each: &mut impl FnMut(&Passage, i64, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fields = [rows::PASSAGE.as_slice(), &[EMBEDDING]].concat();
        let rows = self.query(range, &fields, LONG, ARRIVED)?;
        let (sequences, parts) = (rows.numbers(SEQUENCE), rows.numbers(PART));
        let vectors: Vec<&[f32]> = rows.vectors(self.description.dimension as usize).collect();
        let ids = rows.texts(ID);
        let whole = [parts.len(), vectors.len(), ids.len()];
        if whole.iter().any(|length| *length != sequences.len()) {
            return Err(self.fault("some of its rows lack a field").into());
        }
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&row| (sequences[row], &ids[row], parts[row]));
        for rows_of_one in order.chunk_by(|&a, &b| ids[a] == ids[b]) {
            let first = rows_of_one[0];
            let passage = self.read(|| rows.passage(first))?;
            let vectors: Vec<&[f32]> = rows_of_one.iter().map(|&row| vectors[row]).collect();
            each(&passage, sequences[first], &vectors)?;
        }
        Ok(())
    }

    /// See [`crate::RemoteCollection::verify`].
    pub(in crate::remote) fn verify(
        &self,
        sample: usize,
    ) -> Result<RemoteVerification, IndexError> {
        let passages = self.count(&format!("{PART} == 0"), ALL)?;
        let vectors = self.count(&format!("{PART} >= 0"), ALL)?;
        let mut findings = Vec::new();
        let mut chosen: Vec<Vec<f32>> = Vec::new();
        // Each of so many is looked at; the first that many are left over at the end.
        let step = (passages / sample.max(1) as i64).max(1);
        let mut number = 0;
        self.each_passage("", |passage, _, vectors| {
            if number % step == 0 && chosen.len() < sample {
                for vector in vectors {
                    let length = dot(vector, vector).sqrt();
                    if (length - 1.0).abs() > 1e-3 {
                        let id = &passage.id;
                        findings.push(format!("a vector of {id:?} has the length {length}, not 1"));
                    }
                }
                chosen.extend(vectors.first().map(|vector| vector.to_vec()));
            }
            number += 1;
            Ok::<_, IndexError>(())
        })?;
        if number != passages {
            findings.push(format!(
                "{passages} passages are counted and {number} were read"
            ));
        }
        let options = SearchOptions::new(10);
        let nearest = self.nearest_exactly(&chosen, options.k, "")?;
        let (mut found, mut wanted) = (0, 0);
        for (query, nearest) in chosen.iter().zip(&nearest) {
            let through_graph = self.search(query, &options)?;
            wanted += nearest.len();
            let is_found = |(near, _): &&VectorHit| {
                let mut hits = through_graph.iter();
                hits.any(|hit| hit.passage.id == near.passage.id)
            };
            found += nearest.iter().filter(is_found).count();
        }
        Ok(RemoteVerification {
            counts: (passages.unsigned_abs(), vectors.unsigned_abs()),
            sample: chosen.len(),
            recall_at_10: found as f64 / wanted.max(1) as f64,
            findings,
        })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
