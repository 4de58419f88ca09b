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

use std::ops::Range;

use crate::error::IndexError;
use crate::format::checked::CheckedFile;
use crate::segment::codes::{Code, Codes};
use crate::segment::search::walk::{Adjacency, Beam, Nearest, Scratch, Walk};

/// Links of one layer, before they are flattened: (point, its links), ascending by point.
pub(crate) type LayerLinks<'l> = Vec<(u32, &'l [u32])>;

/// The graph of a segment.
pub(crate) const GRAPH: &str = "graph.links";

/// The flat array, in memory or mapped.
pub(crate) enum LinkArray {
    Built(Vec<u32>),
    Mapped(CheckedFile),
}

impl LinkArray {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::Built(words) => words,
            Self::Mapped(file) => file.numbers(),
        }
    }
}

/// Where the parts of a layer are in the flat array.
struct Layer {
    points: Range<usize>,
    begins: Range<usize>,
    links: Range<usize>,
}

/// A graph that can be searched.
pub(crate) struct Links {
    words: LinkArray,
    layers: Vec<Layer>,
    entry: u32,
}

/// Flattens layers, lowest first. `None` if there are more links than u32 can count.
pub(crate) fn flatten(layers: &[LayerLinks<'_>], entry: u32) -> Option<Vec<u32>> {
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
        words.extend(layer.iter().flat_map(|(_, links)| *links));
    }
    Some(words)
}

impl Links {
    /// Checks every number of the array, so that a search never leaves it.
    pub(crate) fn parse(words: LinkArray, vectors: usize) -> Result<Self, &'static str> {
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

    /// Whether a vector is only in the lowest layer.
    pub(crate) fn is_low(&self, vector: u32) -> bool {
        let points = self
            .layers
            .get(1)
            .map_or(0..0, |layer| layer.points.clone());
        self.words()[points].binary_search(&vector).is_err()
    }

    /// The vectors nearest to a query, best first, at most `beam.ef`: algorithm 5 of Malkov and
    /// Yashunin (2016).
    pub(crate) fn search(
        &self,
        codes: &Codes,
        query: Code<'_>,
        beam: &Beam<'_>,
    ) -> Result<Nearest, IndexError> {
        Scratch::of_this_thread(|scratch| {
            let mut walk = Walk::new(self, codes, query, scratch);
            let mut nearest = walk.rank(self.entry)?;
            for layer in (1..self.layers.len()).rev() {
                nearest = walk.descend(layer, nearest)?;
            }
            let best = walk.explore(0, &[nearest], beam)?;
            let compared = walk.compared();
            Ok(Nearest { best, compared })
        })
    }
}

impl Adjacency for Links {
    fn links(&self, layer: usize, vector: u32) -> &[u32] {
        let (part, words) = (&self.layers[layer], self.words());
        let row = match layer {
            0 => vector as usize,
            _ => match words[part.points.clone()].binary_search(&vector) {
                Ok(row) => row,
                Err(_) => return &[],
            },
        };
        let begins = &words[part.begins.clone()];
        &words[part.links.clone()][begins[row] as usize..begins[row + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::graph_record::GraphParameters;
    use crate::segment::graph::build::build;
    use crate::testing::{clustered, singles, store};
    use proptest::prelude::*;

    fn square() -> Vec<u32> {
        let links: Vec<[u32; 2]> = (0..4).map(|v| [(v + 1) % 4, (v + 3) % 4]).collect();
        let lowest = (0..4).zip(links.iter().map(|l| &l[..])).collect();
        flatten(&[lowest, vec![(2, &[])]], 2).unwrap()
    }

    #[test]
    fn flattened_links_are_read_back() {
        let links = Links::parse(LinkArray::Built(square()), 4).ok().unwrap();
        assert_eq!(links.links(0, 3), [0, 2]);
        assert_eq!(links.links(1, 2), [0u32; 0]);
        assert_eq!(links.links(1, 3), [0u32; 0]);
    }

    #[test]
    fn a_search_stops_at_its_limit_and_goes_round_what_is_hidden() {
        let (_home, vectors) = store(&singles(clustered(9, 2_000, 32, 20)));
        let codes = vectors.codes();
        let parameters = GraphParameters {
            m: 8,
            ef_construction: 60,
        };
        let links = build(codes, &parameters, |_| true).unwrap();
        let query = codes.code(1_234).unwrap();
        let whole = links.search(codes, query, &Beam::new(40)).unwrap();
        assert_eq!(whole.best.len(), 40);
        assert_eq!(whole.best[0].vector(), 1_234);

        let hidden = Beam {
            hidden: Some(1_234),
            ..Beam::new(40)
        };
        let others = links.search(codes, query, &hidden).unwrap();
        assert!(others.best.iter().all(|found| found.vector() != 1_234));

        let limited = Beam {
            limit: whole.compared / 2,
            ..Beam::new(40)
        };
        let part = links.search(codes, query, &limited).unwrap();
        // The limit is checked only between vectors, so all links of the last vector are compared.
        assert!(part.compared <= whole.compared / 2 + 2 * parameters.m);
    }

    proptest! {
        #[test]
        fn any_array_is_refused_or_safe_to_walk(at in 0usize..40, value in any::<u32>(), length in 0usize..40) {
            let mut words = square();
            if let Some(word) = words.get_mut(at) {
                *word = value % 64;
            }
            words.truncate(length);
            if let Ok(links) = Links::parse(LinkArray::Built(words), 4) {
                for height in 0..links.layers.len() {
                    for point in 0..4 {
                        prop_assert!(links.links(height, point).iter().all(|&v| v < 4));
                    }
                }
            }
        }
    }
}
