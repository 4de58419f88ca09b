//! Sketches in the layout that their scan reads.

use std::ops::Range;

use crate::live::sketch::bit_product::{LANES, Lanes, bit_products};
use crate::live::sketch::estimate::{
    CentredQuery, Factors, RoundedBits, RoundedQuery, Sketch, coarse_words,
};
use crate::segment::codes::Estimate;

/// Groups of eight vectors whose products are computed before any of them is looked at.
const GROUPS: usize = 8;

/// Sketches with one centre and one origin.
#[derive(Clone, Default)]
pub(crate) struct SketchList {
    vectors: usize,
    coarse: Bits,
    fine: Bits,
}

/// The bits of coarse sketches, or of whole ones.
#[derive(Clone, Default)]
struct Bits {
    /// (groups of eight vectors, words); bits of vectors that are not there yet are zero.
    groups: Vec<Lanes>,
    /// The factors of each group.
    factors: Vec<Factors<[f32; LANES]>>,
}

impl SketchList {
    pub(crate) fn push(&mut self, sketch: &Sketch) {
        let (words, lane) = (&sketch.words[..], self.vectors % LANES);
        self.coarse
            .push(lane, &words[..coarse_words(words.len())], sketch.coarse);
        self.fine.push(lane, words, sketch.factors);
        self.vectors += 1;
    }

    /// Calls `visit` with each of some vectors that may reach a score, and its estimate. That score is at
    /// first `reached`, then what `visit` returned last. The last one is returned.
    ///
    /// Where a query has near vectors, the coarse sketches of nearly all others rule them out, and a quarter
    /// of the bits is read.
    pub(crate) fn scan(
        &self,
        vectors: Range<usize>,
        query: &CentredQuery<'_>,
        mut reached: f32,
        mut visit: impl FnMut(usize, Estimate) -> f32,
    ) -> f32 {
        let RoundedQuery { coarse, fine } = query.rounded;
        let groups = vectors.start / LANES..vectors.end.div_ceil(LANES);
        for first in groups.clone().step_by(GROUPS) {
            let groups = first..groups.end.min(first + GROUPS);
            let mut products = [[0; LANES]; GROUPS];
            self.coarse.products(groups.clone(), coarse, &mut products);
            for (group, products) in groups.zip(&products) {
                let factors = &self.coarse.factors[group];
                let coarse_at_most = query.at_most(coarse, factors, products);
                if coarse_at_most.iter().all(|&score| score < reached) {
                    continue;
                }
                let (factors, mut products) = (&self.fine.factors[group], [[0; LANES]]);
                self.fine.products(group..group + 1, fine, &mut products);
                let at_most = query.at_most(fine, factors, &products[0]);
                for (lane, at_most) in at_most.into_iter().enumerate() {
                    let vector = group * LANES + lane;
                    if at_most.min(coarse_at_most[lane]) >= reached && vectors.contains(&vector) {
                        let estimate = query.estimate(fine, factors.get(lane), products[0][lane]);
                        reached = visit(vector, estimate);
                    }
                }
            }
        }
        reached
    }
}

impl Bits {
    fn push(&mut self, lane: usize, words: &[u64], of_vector: Factors) {
        if lane == 0 {
            let groups = self.groups.len() + words.len();
            self.groups.resize(groups, [0; LANES]);
            self.factors.push(Factors::default());
        }
        let group = self.groups.len() - words.len();
        for (lanes, word) in self.groups[group..].iter_mut().zip(words) {
            lanes[lane] = *word;
        }
        if let Some(factors) = self.factors.last_mut() {
            factors.set(lane, of_vector);
        }
    }

    /// The products of some groups with a query.
    fn products(&self, groups: Range<usize>, query: &RoundedBits, products: &mut [[u32; LANES]]) {
        let words = query.planes.len();
        let groups = &self.groups[groups.start * words..groups.end * words];
        bit_products(groups, &query.planes, products);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::sketch::rotation::Rotation;
    use crate::segment::search::score::dot;
    use crate::testing::clustered;

    #[test]
    fn exactly_those_are_visited_that_may_reach_the_score() {
        let rotation = Rotation::new(100);
        let rotated = |v: &Vec<f32>| rotation.rotate(v);
        let vectors: Vec<_> = clustered(1, 301, 100, 7).iter().map(rotated).collect();
        let centre = vec![0.25; 100];
        let rounded = RoundedQuery::new(&vectors[300], &centre);
        let square = dot(&centre, &centre);
        let query = CentredQuery::new(&rounded, &vectors[300], &centre, square);
        let mut list = SketchList::default();
        let mut alone = Vec::new();
        for vector in &vectors[..300] {
            let sketch = Sketch::new(vector, &centre, &centre);
            list.push(&sketch);
            let mut one = SketchList::default();
            one.push(&sketch);
            let mut products = [[0; LANES]];
            one.coarse.products(0..1, &rounded.coarse, &mut products);
            let factors = &one.coarse.factors[0];
            let coarse = query.at_most(&rounded.coarse, factors, &products[0])[0];
            one.scan(0..1, &query, f32::NEG_INFINITY, |_, estimate| {
                alone.push((estimate, estimate.at_most().min(coarse)));
                f32::NEG_INFINITY
            });
        }
        let mut all: Vec<f32> = alone.iter().map(|(_, at_most)| *at_most).collect();
        all.sort_by(f32::total_cmp);
        for (range, reached) in [
            (0..300, f32::NEG_INFINITY),
            (0..300, all[200]),
            (9..250, all[100]),
        ] {
            let mut visited = Vec::new();
            list.scan(range.clone(), &query, reached, |vector, estimate| {
                visited.push((vector, estimate));
                reached
            });
            let wanted = alone.iter().enumerate();
            let wanted =
                wanted.filter(|(n, (_, at_most))| range.contains(n) && *at_most >= reached);
            let wanted = wanted.map(|(n, (estimate, _))| (n, *estimate));
            assert_eq!(visited, wanted.collect::<Vec<_>>());
        }
        // Nothing reaches more than the best.
        let mut visits = 0;
        let last = list.scan(0..300, &query, f32::NEG_INFINITY, |_, _| {
            visits += 1;
            f32::INFINITY
        });
        assert_eq!((visits, last), (1, f32::INFINITY));
    }
}
