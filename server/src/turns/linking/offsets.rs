//! Where a byte of a text stands, as a client counts.

use onegen_proto::OffsetUnit;

use crate::wire::citations::length;

/// Counts from one place of a text to the next. Each place is at or behind the last one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offsets {
    unit: OffsetUnit,
    /// The last place, in bytes and as the client counts.
    last: (usize, usize),
}

impl Offsets {
    /// From the text's beginning.
    pub(super) fn new(unit: OffsetUnit) -> Self {
        let last = (0, 0);
        Self { unit, last }
    }

    /// Where `byte` stands, which is between two characters.
    pub(super) fn at(&mut self, text: &str, byte: usize) -> usize {
        let (last, at) = self.last;
        let more = length(text[last..byte].chars(), self.unit);
        self.last = (byte, at + more);
        at + more
    }
}
