//! Walking a graph towards a query: the search inside one layer, for building and for searching alike
//! (algorithm 2 of Malkov and Yashunin, 2016).

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::IndexError;
use crate::segment::codes::{Code, Codes};

// How many codes are prefetched ahead of the one that is being compared. On 100,000 vectors of 896
// dimensions a search without prefetching takes 1.2 times as long; prefetching 2, 8 or all at once is no
// better than 4.
const AHEAD: usize = 4;

/// The links of a graph, finished or being built.
pub(crate) trait Adjacency {
    /// Links of a vector in a layer; none if it is not in that layer.
    fn links(&self, layer: usize, vector: u32) -> &[u32];
}

/// A vector and its approximate score in one number. The greater number is the better vector; among
/// equal scores that is the vector with the lower number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RankedVector(u64);

const SIGN: u32 = 1 << 31;

impl RankedVector {
    #[inline(always)]
    pub(crate) fn new(score: f32, vector: u32) -> Self {
        let bits = score.to_bits();
        // The order of `f32::total_cmp`.
        let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self(u64::from(ordered) << 32 | u64::from(!vector))
    }

    pub(crate) fn vector(self) -> u32 {
        !(self.0 as u32)
    }

    pub(crate) fn score(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered & SIGN == 0 {
            !ordered
        } else {
            ordered & !SIGN
        })
    }
}

/// The working memory of a walk, reused by the next one.
#[derive(Default)]
pub(crate) struct Scratch {
    seen: Vec<u64>,
    unseen: Vec<u32>,
    candidates: BinaryHeap<RankedVector>,
    found: BinaryHeap<Reverse<RankedVector>>,
}

impl Scratch {
    /// Calls `search` with the thread's own working memory, so that a search allocates nothing that
    /// grows with the index.
    pub(crate) fn of_this_thread<T>(search: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(search)
    }

    fn clear(&mut self, vectors: usize) {
        self.seen.clear();
        self.seen.resize(vectors.div_ceil(64), 0);
        self.candidates.clear();
        self.found.clear();
    }
}

fn first_seen(seen: &mut [u64], vector: u32) -> bool {
    let (word, bit) = (vector as usize / 64, 1 << (vector % 64));
    let unseen = seen[word] & bit == 0;
    seen[word] |= bit;
    unseen
}

/// How a layer is explored.
#[derive(Clone, Copy)]
pub(crate) struct Beam<'b> {
    /// How many of the best vectors are kept, the paper's `ef`.
    pub(crate) ef: usize,
    /// The walk stops once it has compared this many vectors, and returns what it has found.
    pub(crate) limit: usize,
    /// Vectors that may be returned. The walk passes through the others, but does not return them.
    pub(crate) wanted: Option<&'b dyn Fn(u32) -> bool>,
    /// A vector that the walk does not even pass through, as if it were not in the graph.
    pub(crate) hidden: Option<u32>,
}

impl Beam<'_> {
    pub(crate) fn new(ef: usize) -> Self {
        Self {
            ef,
            limit: usize::MAX,
            wanted: None,
            hidden: None,
        }
    }

    #[inline(always)]
    fn wants(&self, vector: u32) -> bool {
        self.wanted.is_none_or(|wanted| wanted(vector))
    }
}

/// What a search through a graph has found.
pub(crate) struct Nearest {
    /// Best first.
    pub(crate) best: Vec<RankedVector>,
    /// Vectors compared with the query.
    pub(crate) compared: usize,
}

/// A walk for one query through one graph.
pub(crate) struct Walk<'w, A> {
    adjacency: &'w A,
    codes: &'w Codes,
    query: Code<'w>,
    scratch: &'w mut Scratch,
    compared: usize,
}

impl<'w, A: Adjacency> Walk<'w, A> {
    pub(crate) fn new(
        adjacency: &'w A,
        codes: &'w Codes,
        query: Code<'w>,
        scratch: &'w mut Scratch,
    ) -> Self {
        Self {
            adjacency,
            codes,
            query,
            scratch,
            compared: 0,
        }
    }

    /// Vectors compared with the query so far.
    pub(crate) fn compared(&self) -> usize {
        self.compared
    }

    /// Compares the query with a vector.
    pub(crate) fn rank(&mut self, vector: u32) -> Result<RankedVector, IndexError> {
        self.compared += 1;
        let score = self.query.dot(self.codes.code(vector)?);
        Ok(RankedVector::new(score, vector))
    }

    /// Goes from vector to better vector until none of the links is better.
    pub(crate) fn descend(
        &mut self,
        layer: usize,
        from: RankedVector,
    ) -> Result<RankedVector, IndexError> {
        let mut nearest = from;
        loop {
            let from = nearest;
            let links = self.adjacency.links(layer, from.vector());
            links.iter().for_each(|&vector| self.codes.prefetch(vector));
            for &vector in links {
                nearest = nearest.max(self.rank(vector)?);
            }
            if nearest == from {
                return Ok(nearest);
            }
        }
    }

    /// The best vectors that it finds from `entries` on, best first.
    pub(crate) fn explore(
        &mut self,
        layer: usize,
        entries: &[RankedVector],
        beam: &Beam<'_>,
    ) -> Result<Vec<RankedVector>, IndexError> {
        self.scratch.clear(self.codes.count());
        if let Some(hidden) = beam.hidden {
            first_seen(&mut self.scratch.seen, hidden);
        }
        for &entry in entries {
            if first_seen(&mut self.scratch.seen, entry.vector()) {
                self.meet(entry, beam);
            }
        }
        while let Some(candidate) = self.scratch.candidates.pop() {
            let full = self.scratch.found.len() >= beam.ef;
            let worst = self.scratch.found.peek();
            if full && worst.is_some_and(|worst| candidate < worst.0) || self.compared >= beam.limit
            {
                break;
            }
            let mut unseen = std::mem::take(&mut self.scratch.unseen);
            unseen.clear();
            let links = self.adjacency.links(layer, candidate.vector()).iter();
            unseen.extend(links.filter(|&&v| first_seen(&mut self.scratch.seen, v)));
            unseen
                .iter()
                .take(AHEAD)
                .for_each(|&v| self.codes.prefetch(v));
            for (place, &vector) in unseen.iter().enumerate() {
                if let Some(&later) = unseen.get(place + AHEAD) {
                    self.codes.prefetch(later);
                }
                let next = self.rank(vector)?;
                self.meet(next, beam);
            }
            self.scratch.unseen = unseen;
        }
        let mut best: Vec<RankedVector> = self.scratch.found.drain().map(|Reverse(r)| r).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        Ok(best)
    }

    #[inline(always)]
    fn meet(&mut self, next: RankedVector, beam: &Beam<'_>) {
        let Scratch {
            candidates, found, ..
        } = &mut *self.scratch;
        if found.len() < beam.ef {
            candidates.push(next);
            if beam.wants(next.vector()) {
                found.push(Reverse(next));
            }
        } else if let Some(mut worst) = found.peek_mut()
            && next > worst.0
        {
            candidates.push(next);
            if beam.wants(next.vector()) {
                *worst = Reverse(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::search::score::ScoredVector;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranked_orders_as_scored_does(a in any::<(f32, u32)>(), b in any::<(f32, u32)>()) {
            let scored = |(score, vector)| ScoredVector { score, vector };
            let ranked = |(score, vector)| RankedVector::new(score, vector);
            prop_assert_eq!(ranked(b).cmp(&ranked(a)), scored(a).best_first(&scored(b)));
            prop_assert_eq!(ranked(a).vector(), a.1);
            prop_assert_eq!(ranked(a).score().to_bits(), a.0.to_bits());
        }
    }
}
