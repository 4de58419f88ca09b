//! The graph as it is stored and searched: for each layer the links of its vectors, in one flat
//! array of u32.
//!
//! ```text
//! layers, entry, then for each layer from the lowest:
//!   points, links,
//!   the points, ascending         (not in the lowest layer, which holds every vector),
//!   where each point's links begin, and the end   (points + 1),
//!   the links                     (vector numbers)
//! ```
//!
//! hnsw_rs's own dump is not used: its loader panics or reads out of bounds on a damaged file,
//! keeps a second copy of every vector, and takes minutes where this is mapped at once.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::checked::CheckedFile;
use crate::error::IndexError;
use crate::scan::{Scored, dot};
use crate::vectors::VectorStore;

/// Links of one layer, before they are flattened: (point, its links), ascending by point.
pub(crate) type LayerLinks = Vec<(u32, Vec<u32>)>;

/// Where the flat array lives.
pub(crate) enum Words {
    Built(Vec<u32>),
    Mapped(CheckedFile),
}

impl Words {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::Built(words) => words,
            Self::Mapped(file) => file.numbers(),
        }
    }
}

/// Places of a layer's parts in the flat array.
struct Layer {
    points: Range<usize>,
    begins: Range<usize>,
    links: Range<usize>,
}

/// The graph of a segment.
pub(crate) const GRAPH: &str = "graph.links";

/// A graph that can be searched.
pub(crate) struct Links {
    words: Words,
    layers: Vec<Layer>,
    entry: u32,
}

/// Flattens layers, lowest first. `None` if there are more links than u32 can count.
pub(crate) fn flatten(layers: &[LayerLinks], entry: u32) -> Option<Vec<u32>> {
    let mut words = vec![u32::try_from(layers.len()).ok()?, entry];
    for (height, layer) in layers.iter().enumerate() {
        let links: usize = layer.iter().map(|(_, links)| links.len()).sum();
        words.extend([u32::try_from(layer.len()).ok()?, u32::try_from(links).ok()?]);
        if height > 0 {
            words.extend(layer.iter().map(|(point, _)| point));
        }
        let mut begin = 0;
        words.push(begin);
        for (_, links) in layer {
            begin += links.len() as u32;
            words.push(begin);
        }
        words.extend(layer.iter().flat_map(|(_, links)| links));
    }
    Some(words)
}

impl Links {
    /// Checks every number of the array, so that a search never leaves it.
    pub(crate) fn parse(words: Words, vectors: usize) -> Result<Self, &'static str> {
        let all = words.as_slice();
        let [layer_count, entry, ..] = *all else {
            return Err("it is too short for a graph");
        };
        let mut at = 2usize;
        let mut take = |count: usize| -> Result<Range<usize>, &'static str> {
            let end = at.checked_add(count).filter(|&end| end <= all.len());
            let range = at..end.ok_or("a layer goes beyond its end")?;
            at = range.end;
            Ok(range)
        };
        let mut layers = Vec::new();
        for height in 0..layer_count {
            let counts = take(2)?;
            let (points, links) = (all[counts.start] as usize, all[counts.start + 1] as usize);
            let layer = Layer {
                points: take(if height == 0 { 0 } else { points })?,
                begins: take(points + 1)?,
                links: take(links)?,
            };
            if height == 0 && points != vectors {
                return Err("its lowest layer does not hold every vector");
            }
            if !all[layer.points.clone()].is_sorted_by(|a, b| a < b) {
                return Err("the points of a layer are not in order");
            }
            let begins = &all[layer.begins.clone()];
            if begins[0] != 0 || begins[points] as usize != links || !begins.is_sorted() {
                return Err("the links of a layer are not covered by its points");
            }
            if all[layer.links.clone()]
                .iter()
                .any(|&v| v as usize >= vectors)
            {
                return Err("a link points at a vector that does not exist");
            }
            layers.push(layer);
        }
        if at != all.len() || layers.is_empty() || entry as usize >= vectors {
            return Err("its header does not fit its content");
        }
        Ok(Self {
            words,
            layers,
            entry,
        })
    }

    pub(crate) fn words(&self) -> &[u32] {
        self.words.as_slice()
    }

    /// Links of a point in a layer; none if it is not in that layer.
    fn of(&self, height: usize, point: u32) -> &[u32] {
        let (layer, words) = (&self.layers[height], self.words());
        let row = match height {
            0 => point as usize,
            _ => match words[layer.points.clone()].binary_search(&point) {
                Ok(row) => row,
                Err(_) => return &[],
            },
        };
        let begins = &words[layer.begins.clone()];
        &words[layer.links.clone()][begins[row] as usize..begins[row + 1] as usize]
    }

    /// The vectors nearest to a unit query, best first, at most `ef`: algorithms 2 and 5 of Malkov
    /// and Yashunin (2016).
    pub(crate) fn search(
        &self,
        vectors: &VectorStore,
        query: &[f32],
        ef: usize,
        allowed: impl Fn(u32) -> bool,
    ) -> Result<Vec<Scored>, IndexError> {
        let owners = vectors.owners();
        let score = |vector: u32| -> Result<Scored, IndexError> {
            Ok(Scored {
                score: dot(query, vectors.row(vector)?),
                vector,
            })
        };
        let mut nearest = score(self.entry)?;
        for height in (1..self.layers.len()).rev() {
            loop {
                let from = nearest.vector;
                for &vector in self.of(height, from) {
                    let next = score(vector)?;
                    if next.score > nearest.score {
                        nearest = next;
                    }
                }
                if nearest.vector == from {
                    break;
                }
            }
        }

        let mut seen = vec![0u64; vectors.count().div_ceil(64)];
        let mut unseen = |vector: u32| {
            let (word, bit) = (vector as usize / 64, 1 << (vector % 64));
            let unseen = seen[word] & bit == 0;
            seen[word] |= bit;
            unseen
        };
        unseen(nearest.vector);
        let mut candidates = BinaryHeap::from([Nearness(nearest)]);
        let mut found = BinaryHeap::new();
        if allowed(owners[nearest.vector as usize]) {
            found.push(Reverse(Nearness(nearest)));
        }
        while let Some(Nearness(candidate)) = candidates.pop() {
            let full = found.len() >= ef;
            if full
                && found
                    .peek()
                    .is_some_and(|Reverse(Nearness(worst))| candidate.score < worst.score)
            {
                break;
            }
            for &vector in self.of(0, candidate.vector) {
                if !unseen(vector) {
                    continue;
                }
                let next = Nearness(score(vector)?);
                if found.len() < ef {
                    candidates.push(next);
                    if allowed(owners[vector as usize]) {
                        found.push(Reverse(next));
                    }
                } else if !allowed(owners[vector as usize]) {
                    candidates.push(next);
                } else if let Some(mut worst) = found.peek_mut()
                    && next > worst.0
                {
                    candidates.push(next);
                    *worst = Reverse(next);
                }
            }
        }
        Ok(found
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(Nearness(scored))| scored)
            .collect())
    }
}

/// Orders scores so that the better is the greater, as heaps want it.
#[derive(Clone, Copy, PartialEq)]
struct Nearness(Scored);

impl Eq for Nearness {}

impl Ord for Nearness {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.best_first(&other.0).reverse()
    }
}

impl PartialOrd for Nearness {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn square() -> Vec<u32> {
        let lowest = (0..4)
            .map(|v| (v, vec![(v + 1) % 4, (v + 3) % 4]))
            .collect();
        flatten(&[lowest, vec![(2, vec![])]], 2).unwrap()
    }

    #[test]
    fn flattened_links_are_read_back() {
        let links = Links::parse(Words::Built(square()), 4).ok().unwrap();
        assert_eq!(links.of(0, 3), [0, 2]);
        assert_eq!(links.of(1, 2), [0u32; 0]);
        assert_eq!(links.of(1, 3), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn any_array_is_refused_or_safe_to_walk(at in 0usize..40, value in any::<u32>(), length in 0usize..40) {
            let mut words = square();
            if let Some(word) = words.get_mut(at) {
                *word = value % 64;
            }
            words.truncate(length);
            if let Ok(links) = Links::parse(Words::Built(words), 4) {
                for height in 0..links.layers.len() {
                    for point in 0..4 {
                        prop_assert!(links.of(height, point).iter().all(|&v| v < 4));
                    }
                }
            }
        }
    }
}
