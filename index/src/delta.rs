//! Passages that are in no segment yet: few, in memory, scanned exactly.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::Entry;
use crate::search::scan::{Scored, dot};
use crate::segment::passages::{IdDigest, Passage};

/// Passages in the order in which they came. Cloned for each batch of changes, so that searches keep
/// the one they began with.
#[derive(Clone, Default)]
pub(crate) struct Delta {
    // One that was deleted or replaced leaves its place empty.
    entries: Vec<Option<Arc<Entry>>>,
    places: HashMap<IdDigest, u32>,
    vectors: usize,
}

impl Delta {
    /// Number of places, which is the place of the next passage.
    pub(crate) fn places(&self) -> usize {
        self.entries.len()
    }

    /// Number of passages.
    pub(crate) fn passages(&self) -> usize {
        self.places.len()
    }

    /// Numbers that are held in vectors.
    pub(crate) fn numbers(&self) -> usize {
        self.vectors
    }

    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        self.vectors += entry.vectors.len();
        self.places.insert(entry.digest, self.entries.len() as u32);
        self.entries.push(Some(entry));
    }

    /// Takes out the passage with an id's digest; whether there was one.
    pub(crate) fn remove(&mut self, id: &IdDigest) -> bool {
        let Some(place) = self.places.remove(id) else {
            return false;
        };
        if let Some(entry) = self.entries[place as usize].take() {
            self.vectors -= entry.vectors.len();
        }
        true
    }

    /// Drops everything before a place.
    pub(crate) fn drop_before(&mut self, place: usize) {
        let rest = self.entries.split_off(place.min(self.entries.len()));
        *self = Self::default();
        for entry in rest {
            match entry {
                Some(entry) => self.push(entry),
                None => self.entries.push(None),
            }
        }
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Arc<Entry>> {
        self.entries.get(place as usize)?.as_ref()
    }

    pub(crate) fn find(&self, id: &IdDigest) -> Option<u32> {
        self.places.get(id).copied()
    }

    /// All passages with their places, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Entry>)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(place, entry)| Some((place as u32, entry.as_ref()?)))
    }

    /// The best `k` passages that may be returned, best first: the score of each one's best vector,
    /// the passage, and which of its vectors that is.
    pub(crate) fn search(
        &self,
        query: &[f32],
        k: usize,
        may: impl Fn(&Passage) -> bool,
    ) -> Vec<(f32, &Entry, u32)> {
        let mut best: Vec<(f32, &Entry, u32)> = Vec::new();
        for (_, entry) in self.iter().filter(|(_, entry)| may(&entry.passage)) {
            let vectors = entry.vectors.chunks_exact(query.len()).zip(0..);
            let of_passage = vectors.map(|(vector, part)| Scored {
                score: dot(query, vector),
                vector: part,
            });
            if let Some(Scored { score, vector }) = of_passage.min_by(Scored::best_first) {
                best.push((score, entry, vector));
            }
        }
        // Stable: of equal scores the one that was put in earlier stays first.
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best.truncate(k);
        best
    }
}
