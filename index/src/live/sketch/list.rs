//! Sketches in the layout that their scan reads.

use std::ops::Range;

use crate::live::sketch::bit_product::{LANES, Lanes, bit_products};
use crate::live::sketch::estimate::{CentredQuery, Factors, Sketch};
use crate::segment::codes::Estimate;

/// Groups of eight vectors whose products are computed before any of them is looked at.
const GROUPS: usize = 8;

/// Sketches with one centre and one origin.
#[derive(Clone, Default)]
pub(crate) struct SketchList {
    vectors: usize,
    /// (groups of eight vectors, words); bits of vectors that are not there yet are zero.
    groups: Vec<Lanes>,
    /// The factors of each group.
    factors: Vec<Factors<[f32; LANES]>>,
}

impl SketchList {
    pub(crate) fn push(&mut self, sketch: &Sketch) {
        let (words, lane) = (sketch.words.len(), self.vectors % LANES);
        if lane == 0 {
            let groups = self.groups.len() + words;
            self.groups.resize(groups, [0; LANES]);
            self.factors.push(Factors::default());
        }
        let group = self.groups.len() - words;
        for (lanes, word) in self.groups[group..].iter_mut().zip(&sketch.words) {
            lanes[lane] = *word;
        }
        if let Some(factors) = self.factors.last_mut() {
            factors.set(lane, sketch.factors);
        }
        self.vectors += 1;
    }

    /// Calls `visit` with each of some vectors that may reach a score, and its estimate. That score is at
    /// first `reached`, then what `visit` returned last. The last one is returned.
    pub(crate) fn scan(
        &self,
        vectors: Range<usize>,
        query: &CentredQuery<'_>,
        mut reached: f32,
        mut visit: impl FnMut(usize, Estimate) -> f32,
    ) -> f32 {
        let planes = &query.rounded.planes;
        let words = planes.len();
        let first = vectors.start / LANES;
        let groups = self.groups[first * words..].chunks(GROUPS * words);
        let factors = self.factors[first..].chunks(GROUPS);
        let firsts = (first * LANES..vectors.end).step_by(GROUPS * LANES);
        for ((first, groups), factors) in firsts.zip(groups).zip(factors) {
            let mut products = [[0; LANES]; GROUPS];
            bit_products(groups, planes, &mut products);
            for (group, (factors, products)) in factors.iter().zip(&products).enumerate() {
                let at_most = query.at_most(factors, products);
                if at_most.iter().all(|&score| score < reached) {
                    continue;
                }
                for (lane, &at_most) in at_most.iter().enumerate() {
                    let vector = first + group * LANES + lane;
                    if at_most >= reached && vectors.contains(&vector) {
                        reached = visit(vector, query.estimate(factors.get(lane), products[lane]));
                    }
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::sketch::estimate::RoundedQuery;
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
            one.scan(0..1, &query, f32::NEG_INFINITY, |_, estimate| {
                alone.push(estimate);
                f32::NEG_INFINITY
            });
        }
        let mut all: Vec<f32> = alone.iter().map(|estimate| estimate.at_most()).collect();
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
            let wanted = alone.iter().copied().enumerate();
            let wanted = wanted.filter(|(n, e)| range.contains(n) && e.at_most() >= reached);
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
