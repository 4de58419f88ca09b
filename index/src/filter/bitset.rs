//! A set of passage numbers: one bit each.

/// A set of the numbers below `len`. Copying one for a million passages copies 125 kB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitset {
    // The last word's bits beyond the end are zero.
    words: Vec<u64>,
    len: usize,
}

impl Bitset {
    /// The empty set of the numbers below `len`.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
            len,
        }
    }

    /// All numbers below `len`.
    pub(crate) fn full(len: usize) -> Self {
        let mut set = Self::new(len);
        set.not();
        set
    }

    /// Numbers that could be in the set.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a number in. A number that is not below `len` is ignored.
    pub(crate) fn set(&mut self, number: u32) {
        let number = number as usize;
        if number < self.len {
            self.words[number / 64] |= 1 << (number % 64);
        }
    }

    /// Whether a number is in the set.
    pub(crate) fn test(&self, number: u32) -> bool {
        self.words
            .get(number as usize / 64)
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Keeps only numbers that are also in `other`, which must have the same length.
    pub(crate) fn and(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
    }

    /// Takes out what is in `other`, which must be of the same length.
    pub(crate) fn and_not(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }

    /// Adds what is in `other`, which must be of the same length.
    pub(crate) fn or(&mut self, other: &Self) {
        debug_assert_eq!(self.len, other.len);
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Replaces the set by its complement.
    pub(crate) fn not(&mut self) {
        for word in &mut self.words {
            *word = !*word;
        }
        if let Some(last) = self.words.last_mut() {
            *last &= last_word(self.len);
        }
    }

    /// How many numbers are in the set.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The numbers in the set, ascending.
    #[cfg(test)]
    pub(crate) fn ones(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let lowest_off = |&w: &u64| Some(w & (w - 1)).filter(|&w| w != 0);
            std::iter::successors(Some(word).filter(|&w| w != 0), lowest_off)
                .map(move |w| at as u32 * 64 + w.trailing_zeros())
        })
    }

    /// The set as it is stored: its words, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// Reads what [`Bitset::to_bytes`] wrote for a set of the same `len`.
    ///
    /// # Errors
    /// If the bytes are too few or too many, or hold a number that is not below `len`.
    pub(crate) fn from_bytes(bytes: &[u8], len: usize) -> Result<Self, &'static str> {
        let (words, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || words.len() != len.div_ceil(64) {
            return Err("its length does not fit the number of passages");
        }
        let words: Vec<u64> = words.iter().map(|&w| u64::from_le_bytes(w)).collect();
        if words.last().is_some_and(|w| w & !last_word(len) != 0) {
            return Err("it holds a passage beyond the last");
        }
        Ok(Self { words, len })
    }
}

/// The bits of the last word that stand for numbers below `len`.
fn last_word(len: usize) -> u64 {
    u64::MAX >> (len.wrapping_neg() % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bitset(numbers: &BTreeSet<u32>, len: usize) -> Bitset {
        let mut set = Bitset::new(len);
        numbers.iter().for_each(|&n| set.set(n));
        set
    }

    fn numbers() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(0u32..300, 0..80)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers_does(len in 0usize..260, a in numbers(), b in numbers()) {
            let below = |set: &BTreeSet<u32>| -> BTreeSet<u32> {
                set.iter().copied().filter(|&n| (n as usize) < len).collect()
            };
            let (one, two) = (bitset(&a, len), bitset(&b, len));
            let (a, b) = (below(&a), below(&b));
            prop_assert!(one.ones().eq(a.iter().copied()));
            prop_assert_eq!((one.len(), one.count()), (len, a.len()));
            prop_assert!((0..400).all(|n| one.test(n) == a.contains(&n)));

            let mut both = one.clone();
            both.and(&two);
            prop_assert!(both.ones().eq(a.intersection(&b).copied()));
            let mut either = one.clone();
            either.or(&two);
            prop_assert!(either.ones().eq(a.union(&b).copied()));
            let mut neither = either.clone();
            neither.not();
            prop_assert!(neither.ones().eq((0..len as u32).filter(|n| !a.contains(n) && !b.contains(n))));
            neither.or(&either);
            prop_assert_eq!(neither, Bitset::full(len));
            let mut without = one.clone();
            without.and_not(&two);
            prop_assert!(without.ones().eq(a.difference(&b).copied()));
        }

        #[test]
        fn bytes_are_read_back_and_only_by_the_length_that_wrote_them(len in 0usize..260, other in 0usize..260, a in numbers()) {
            let set = bitset(&a, len);
            let bytes = set.to_bytes();
            prop_assert_eq!(Bitset::from_bytes(&bytes, len), Ok(set.clone()));
            let fits = other.div_ceil(64) == len.div_ceil(64)
                && set.ones().all(|n| (n as usize) < other);
            prop_assert_eq!(Bitset::from_bytes(&bytes, other).is_ok(), fits);
            if let Some((_, shorter)) = bytes.split_last() {
                prop_assert!(Bitset::from_bytes(shorter, len).is_err());
            }
        }
    }

    #[test]
    fn a_bit_beyond_the_end_is_refused() {
        let mut bytes = Bitset::full(65).to_bytes();
        assert_eq!(bytes.len(), 16);
        bytes[8] = 0b11;
        assert!(Bitset::from_bytes(&bytes, 65).is_err());
        assert!(Bitset::from_bytes(&bytes, 66).is_ok());
    }
}
