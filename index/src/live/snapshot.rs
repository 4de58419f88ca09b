//! One state of an index: what a search sees from its beginning to its end.

use std::sync::Arc;

use crate::error::IndexError;
use crate::filter::bitset::Bitset;
use crate::live::change::{ChangeCounts, CheckedChange, DeltaPassage};
use crate::live::delta::Delta;
use crate::live::delta_search::{DeltaHit, DeltaQuery};
use crate::live::hit::{Hit, SearchOptions};
use crate::live::live_segment::LiveSegment;
use crate::segment::Segment;
use crate::segment::passages::{IdDigest, Passage, digest};
use crate::segment::planner::{Found, Reach};
use crate::segment::vectors::normalised;

/// Never changes once searches see it; a batch of changes makes another one of a clone.
///
/// **Invariant:** an id stands once in it, and passages stand in the order in which they were put in:
/// segments first, the oldest before the others, then the delta. Merging keeps that order, so equal
/// scores come in the same order before and after it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) segments: Vec<LiveSegment>,
    pub(crate) delta: Arc<Delta>,
    pub(crate) dimension: usize,
}

/// Where a passage stands.
enum HitSource<'s> {
    Segment { segment: &'s Segment, row: u32 },
    Delta { entry: &'s DeltaPassage },
}

impl HitSource<'_> {
    fn passage(&self) -> Result<Passage, IndexError> {
        match self {
            Self::Segment { segment, row } => segment.passage(*row),
            Self::Delta { entry } => Ok(entry.passage.clone()),
        }
    }
}

impl Snapshot {
    /// Number of passages.
    pub(crate) fn passages(&self) -> u64 {
        let in_segments: u64 = self.segments.iter().map(|s| u64::from(s.passages())).sum();
        in_segments + self.delta.passages() as u64
    }

    /// Applies a batch; hears of every id that was touched.
    pub(crate) fn apply(
        &mut self,
        changes: &[CheckedChange],
        mut touched: impl FnMut(IdDigest),
    ) -> Result<ChangeCounts, IndexError> {
        let mut applied = ChangeCounts::default();
        for change in changes {
            match change {
                CheckedChange::Upsert(entry) => {
                    touched(entry.digest);
                    applied.replaced += usize::from(self.remove(&entry.digest));
                    applied.upserted += 1;
                    Arc::make_mut(&mut self.delta).push(entry.clone());
                }
                CheckedChange::Delete(id) => {
                    let id = digest(id);
                    touched(id);
                    applied.deleted += usize::from(self.remove(&id));
                }
                CheckedChange::DeleteDocument(id) => {
                    let mut ids = self.parts(id)?;
                    ids.push(digest(id));
                    for id in ids {
                        touched(id);
                        applied.deleted += usize::from(self.remove(&id));
                    }
                }
            }
        }
        Ok(applied)
    }

    fn remove(&mut self, id: &IdDigest) -> bool {
        if self.delta.find(id).is_some() {
            return Arc::make_mut(&mut self.delta).remove(id);
        }
        for live in self.segments.iter_mut().rev() {
            if let Some(row) = live.find(id) {
                live.delete(row);
                return true;
            }
        }
        false
    }

    /// Ids of the passages that were cut from a document.
    fn parts(&self, document: &str) -> Result<Vec<IdDigest>, IndexError> {
        let of_document = |passage: &Passage| {
            let part = passage.part.as_ref();
            part.is_some_and(|part| part.document == document)
        };
        let mut ids = Vec::new();
        for live in &self.segments {
            for row in live.segment.parts_of(document) {
                if !live.deleted.test(row) {
                    ids.push(digest(&live.segment.passage(row)?.id));
                }
            }
        }
        let in_delta = self.delta.iter().filter(|(_, e)| of_document(&e.passage));
        ids.extend(in_delta.map(|(_, entry)| entry.digest));
        Ok(ids)
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Passage>, IndexError> {
        self.get_by_digest(&digest(id))
    }

    /// What is kept with the passage of an id; see [`crate::Index::passage_kv`].
    pub(crate) fn passage_kv(&self, id: &str) -> Result<Option<Vec<u8>>, IndexError> {
        let id = digest(id);
        if self.delta.find(&id).is_some() {
            return Ok(None);
        }
        for live in self.segments.iter().rev() {
            if let Some(row) = live.find(&id) {
                return Ok(live.segment.kv_of(row)?.map(<[u8]>::to_vec));
            }
        }
        Ok(None)
    }

    /// The passages of a document; see [`crate::Index::document`].
    pub(crate) fn document(&self, id: &str) -> Result<Vec<Passage>, IndexError> {
        // A passage of this id that was cut from another document is not this one.
        if let Some(whole) = self.get(id)?.filter(|passage| passage.part.is_none()) {
            return Ok(vec![whole]);
        }
        let mut passages = Vec::new();
        for part in self.parts(id)? {
            passages.extend(self.get_by_digest(&part)?);
        }
        passages.sort_by_key(|passage| passage.part.as_ref().map(|part| part.start));
        Ok(passages)
    }

    fn get_by_digest(&self, id: &IdDigest) -> Result<Option<Passage>, IndexError> {
        if let Some(entry) = self.delta.find(id).and_then(|place| self.delta.get(place)) {
            return Ok(Some(entry.passage.clone()));
        }
        for live in self.segments.iter().rev() {
            if let Some(row) = live.find(id) {
                return live.segment.passage(row).map(Some);
            }
        }
        Ok(None)
    }

    /// The passages nearest to a query embedding; see [`crate::Index::search`].
    pub(crate) fn search(
        &self,
        query: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Hit>, IndexError> {
        let query = normalised(query, self.dimension)?;
        let (in_segments, in_delta) = self.find(&query, options)?;
        // Score, place, which of the passage's vectors.
        let mut best: Vec<(f32, HitSource<'_>, u32)> = Vec::new();
        for (live, found) in self.segments.iter().zip(in_segments) {
            let segment = live.segment.as_ref();
            for scored in found.best {
                let (row, part) = segment.owner(scored.vector);
                best.push((scored.score, HitSource::Segment { segment, row }, part));
            }
        }
        let in_delta = in_delta.into_iter();
        best.extend(in_delta.map(|(score, entry, part)| (score, HitSource::Delta { entry }, part)));
        // Places come in order and a stable sort keeps it among equal scores.
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best.into_iter()
            .take(options.k)
            .take_while(|(score, ..)| options.min_score.is_none_or(|min| *score >= min))
            .map(|(score, place, part)| {
                let passage = place.passage()?;
                Ok(Hit {
                    score,
                    part,
                    passage,
                })
            })
            .collect()
    }

    /// What each segment has for a query, and what the delta has.
    fn find(
        &self,
        query: &[f32],
        options: &SearchOptions,
    ) -> Result<(Vec<Found>, Vec<DeltaHit<'_>>), IndexError> {
        let (k, filter) = (options.k, options.filter.as_ref());
        // A filter is applied once, also where a segment is searched twice.
        let allowed: Vec<Option<Bitset>> =
            self.segments.iter().map(|s| s.allowed(filter)).collect();
        let search = |n: usize, reach| {
            let segment = &self.segments[n].segment;
            segment.search(query, k, allowed[n].as_ref(), reach)
        };
        let reach = if options.exact {
            Reach::All
        } else {
            Reach::Near
        };
        let in_segments = (0..self.segments.len()).map(|n| search(n, reach));
        let mut in_segments: Vec<Found> = in_segments.collect::<Result<_, _>>()?;
        let of_segments = in_segments.iter().flat_map(|found| &found.best);
        let mut scores: Vec<f32> = of_segments.map(|scored| scored.score).collect();
        best_first(&mut scores, k);
        // Where segments have `k` passages, the delta's need not be found unless they are as good.
        let kth = k.checked_sub(1).and_then(|last| scores.get(last));
        let in_delta = if self.delta.passages() == 0 {
            // A query is not coded for an empty delta.
            Vec::new()
        } else {
            let query = DeltaQuery {
                at_least: kth.copied().unwrap_or(f32::NEG_INFINITY),
                ..DeltaQuery::new(query, k, filter)
            };
            self.delta.search(&query, options.exact)
        };
        scores.extend(in_delta.iter().map(|(score, ..)| *score));
        best_first(&mut scores, k);
        // Where nothing of all that is found is near the query, segments are searched again, farther.
        for (n, found) in in_segments.iter_mut().enumerate() {
            if found.farness.is_some_and(|farness| farness.is_far(&scores)) {
                *found = search(n, Reach::Far)?;
            }
        }
        Ok((in_segments, in_delta))
    }

    /// See [`crate::Index::for_each`].
    pub(crate) fn for_each<E: From<IndexError>>(
        &self,
        mut each: impl FnMut(&Passage, &[&[f32]]) -> Result<(), E>,
    ) -> Result<(), E> {
        for live in &self.segments {
            for row in live.rows() {
                let passage = live.segment.passage(row)?;
                each(&passage, &live.segment.vectors_of(row)?)?;
            }
        }
        for (_, entry) in self.delta.iter() {
            let vectors: Vec<_> = entry.vectors.chunks_exact(self.dimension).collect();
            each(&entry.passage, &vectors)?;
        }
        Ok(())
    }
}

/// Leaves the best `k` scores, the best first.
fn best_first(scores: &mut Vec<f32>, k: usize) {
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.truncate(k);
}
