//! One layer of a graph while it is built, and which vectors belong to it.

use crate::segment::search::walk::RankedVector;

// With `m` of 2 and 2^31 vectors no level is likely to be above this.
const MAX_LAYERS: usize = 40;
/// A pseudorandom number for each vector: splitmix64.
pub(crate) fn scatter(vector: u32) -> u64 {
    let mut bits = (u64::from(vector) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The highest layer of a vector; each layer holds 1/m of the vectors of the layer below.
pub(crate) fn level(vector: u32, m: usize) -> usize {
    let mut bits = scatter(vector);
    let mut level = 0;
    while bits.is_multiple_of(m as u64) && level + 1 < MAX_LAYERS {
        bits /= m as u64;
        level += 1;
    }
    level
}

/// One layer being built: for each point a row of `capacity` links with their scores.
pub(crate) struct Layer {
    /// Ascending; empty in the lowest layer, which holds every vector.
    pub(crate) points: Vec<u32>,
    pub(crate) capacity: usize,
    counts: Vec<u16>,
    links: Vec<u32>,
    scores: Vec<f32>,
}

impl Layer {
    pub(crate) fn new(points: Vec<u32>, count: usize, capacity: usize) -> Self {
        Self {
            points,
            capacity,
            counts: vec![0; count],
            links: vec![0; count * capacity],
            scores: vec![0.0; count * capacity],
        }
    }

    pub(crate) fn place(&self, point: u32) -> Option<usize> {
        if self.points.is_empty() {
            return Some(point as usize);
        }
        self.points.binary_search(&point).ok()
    }

    pub(crate) fn links(&self, place: usize) -> &[u32] {
        let from = place * self.capacity;
        &self.links[from..from + usize::from(self.counts[place])]
    }

    pub(crate) fn ranked(&self, point: u32) -> impl Iterator<Item = RankedVector> {
        let range = self.place(point).map_or(0..0, |place| {
            let from = place * self.capacity;
            from..from + usize::from(self.counts[place])
        });
        let links = self.links[range.clone()].iter().zip(&self.scores[range]);
        links.map(|(&link, &score)| RankedVector::new(score, link))
    }

    pub(crate) fn set(&mut self, point: u32, links: &[RankedVector]) {
        let Some(place) = self.place(point) else {
            return;
        };
        self.counts[place] = links.len() as u16;
        let from = place * self.capacity;
        for (at, link) in (from..from + self.capacity).zip(links) {
            self.links[at] = link.vector();
            self.scores[at] = link.score();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_holds_one_of_m_of_the_layer_below() {
        for m in [2, 3, 16] {
            for height in 1..3 {
                let above = (0..1_000_000).filter(|&v| level(v, m) >= height).count() as f64;
                let wanted = 1e6 / (m.pow(height as u32)) as f64;
                assert!(
                    (above / wanted - 1.0).abs() < 0.05,
                    "m {m}: {above} of {wanted}"
                );
            }
        }
    }
}
