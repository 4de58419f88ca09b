//! Vectors with the same code as an earlier one. A graph links only the first of them; the others
//! follow it in a chain, in the order of their numbers. If they were linked like other vectors, many
//! copies would fill each other's links, and vectors near them would link only to copies.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use crate::error::IndexError;
use crate::segment::codes::Codes;

/// Chains of vectors with equal codes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Copies {
    next: HashMap<u32, u32>,
    previous: HashMap<u32, u32>,
}

impl Copies {
    pub(crate) fn find(codes: &Codes) -> Result<Self, IndexError> {
        let mut copies = Self::default();
        // The last vector of each hash. If two different codes have the same hash, the second only loses
        // its place in a chain.
        let mut last: HashMap<u64, u32> = HashMap::with_capacity(codes.count());
        for vector in 0..codes.count() as u32 {
            let code = codes.code(vector)?;
            let mut hasher = DefaultHasher::new();
            hasher.write(bytemuck::cast_slice(code.numbers));
            hasher.write_u32(code.scale.to_bits());
            if let Some(earlier) = last.insert(hasher.finish(), vector)
                && codes.code(earlier)? == code
            {
                copies.next.insert(earlier, vector);
                copies.previous.insert(vector, earlier);
            }
        }
        Ok(copies)
    }

    /// Whether no earlier vector has the same code.
    pub(crate) fn is_first(&self, vector: u32) -> bool {
        !self.previous.contains_key(&vector)
    }

    /// The copies before and after a vector.
    pub(crate) fn beside(&self, vector: u32) -> impl Iterator<Item = u32> {
        [&self.previous, &self.next]
            .into_iter()
            .filter_map(move |chain| chain.get(&vector).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{singles, store};

    #[test]
    fn copies_form_chains_in_the_order_of_their_numbers() {
        let [a, b] = [vec![1.0, 0.5], vec![0.5, 1.0]];
        let rows = [&a, &b, &a, &b, &a].map(Clone::clone);
        let (_home, vectors) = store(&singles(rows.to_vec()));
        let copies = Copies::find(vectors.codes()).unwrap();
        let firsts: Vec<u32> = (0..5).filter(|&v| copies.is_first(v)).collect();
        assert_eq!(firsts, [0, 1]);
        let beside = |vector| copies.beside(vector).collect::<Vec<u32>>();
        assert_eq!(beside(0), [2]);
        assert_eq!(beside(2), [0, 4]);
        assert_eq!(beside(4), [2]);
        assert_eq!(beside(3), [1]);
    }
}
