//! One of several parts of a corpus, so that several machines can index it at once.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of several contiguous parts of a corpus that have about as many bytes each, written `2/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    number: u32,
    of: u32,
}

impl Shard {
    /// The part with a number, from 1, of so many.
    ///
    /// # Errors
    /// There is no such part.
    pub fn new(number: u32, of: u32) -> Result<Self, String> {
        if (1..=of).contains(&number) {
            Ok(Self { number, of })
        } else {
            Err(format!(
                "there is no part {number} of {of}: give one from 1/{0} to {0}/{0}",
                of.max(1)
            ))
        }
    }

    /// Which part it is, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many parts there are.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// A record belongs to the part in whose range it begins. The last range has no end, because a record may seem to
    /// begin where a compressed corpus ends.
    pub(crate) fn range(self, total_bytes: u64) -> Range<u64> {
        let bound = |part: u32| {
            let bytes = u128::from(total_bytes) * u128::from(part) / u128::from(self.of);
            // It is at most `total_bytes`.
            bytes as u64
        };
        let end = if self.number == self.of {
            u64::MAX
        } else {
            bound(self.number)
        };
        bound(self.number - 1)..end
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| {
            let number = number.parse().ok()?;
            Some((number, of.parse().ok()?))
        });
        let (number, of) = numbers.ok_or("it is not written as a number of parts is, as 2/8")?;
        Self::new(number, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_all_parts_follow_each_other() {
        for (total, of) in [(0, 3), (1, 3), (100, 1), (100, 7), (u64::MAX, u32::MAX)] {
            let range = |number| Shard::new(number, of).unwrap().range(total);
            assert_eq!(range(1).start, 0);
            assert_eq!(range(of).end, u64::MAX);
            for number in (2..=of.min(50)).chain([of]) {
                if number > 1 {
                    assert_eq!(range(number - 1).end, range(number).start);
                }
            }
        }
    }

    #[test]
    fn a_part_that_is_none_is_refused_with_those_that_are() {
        assert_eq!("2/8".parse(), Shard::new(2, 8));
        assert_eq!("8/8".parse::<Shard>().unwrap().to_string(), "8/8");
        for wrong in ["0/8", "9/8", "1/0"] {
            let error = wrong.parse::<Shard>().unwrap_err();
            assert!(error.starts_with("there is no part"), "{error}");
        }
        for wrong in ["", "2", "2/", "/8", "a/b", "-1/8", "1/8/2"] {
            let error = wrong.parse::<Shard>().unwrap_err();
            assert!(error.ends_with("as 2/8"), "{error}");
        }
    }
}
