//! Numbers as filters compare them: integers of 64 bits and f64, each by its exact value.

use serde::{Serialize, Serializer};

/// Up to this number f64 holds every integer exactly.
const EXACT_INTEGERS: f64 = (1u64 << 53) as f64;

/// A number. It is kept as the greatest f64 that does not exceed it, and what is missing to it, so that
/// integers beyond 2^53 are compared by their exact value, with each other and with floats.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Number {
    floor: f64,
    // An integer's distance from `floor`: less than 2^11, since the f64 next to 2^64 is 2^64 - 2^11. It is 0
    // for every number that f64 holds.
    rest: u16,
}

impl Number {
    /// The number of a JSON value. Integers that fit into neither i64 nor u64 are floats in JSON already.
    pub(crate) fn from_json(number: &serde_json::Number) -> Option<Self> {
        let integer = number.as_i64().map(i128::from);
        match integer.or_else(|| number.as_u64().map(i128::from)) {
            Some(integer) => Some(Self::from_integer(integer)),
            None => number.as_f64().map(Self::from),
        }
    }

    /// A number of i64 or u64.
    fn from_integer(integer: i128) -> Self {
        let nearest = integer as f64;
        let floor = if nearest as i128 > integer {
            nearest.next_down()
        } else {
            nearest
        };
        Self {
            floor,
            rest: (integer - floor as i128) as u16,
        }
    }

    /// The greatest f64 that does not exceed the number.
    pub(crate) fn floor(self) -> f64 {
        self.floor
    }

    /// How much greater than [`Number::floor`] the number is.
    pub(crate) fn rest(self) -> u16 {
        self.rest
    }

    /// The nearest f64.
    pub(crate) fn rounded(self) -> f64 {
        if self.rest == 0 {
            self.floor
        } else {
            self.integer() as f64
        }
    }

    /// The number as an integer, where it is one.
    fn integer(self) -> i128 {
        self.floor as i128 + i128::from(self.rest)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self {
            floor: value,
            rest: 0,
        }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::from_integer(value.into())
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::from_integer(value.into())
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let small_integer = self.floor.fract() == 0.0 && self.floor.abs() <= EXACT_INTEGERS;
        if self.rest == 0 && !small_integer {
            return serializer.serialize_f64(self.floor);
        }
        // Integers are written without a fraction: 1821, not 1821.0.
        match (i64::try_from(self.integer()), u64::try_from(self.integer())) {
            (Ok(integer), _) => serializer.serialize_i64(integer),
            (_, Ok(integer)) => serializer.serialize_u64(integer),
            _ => serializer.serialize_f64(self.rounded()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn number(value: serde_json::Value) -> Number {
        Number::from_json(value.as_number().unwrap()).unwrap()
    }

    fn integer() -> impl Strategy<Value = i128> {
        let near = |middle: i128| (-3000i128..3000).prop_map(move |offset| middle + offset);
        prop_oneof![
            any::<i64>().prop_map(i128::from),
            any::<u64>().prop_map(i128::from),
            near(1 << 53),
            near(-(1 << 53)),
            near(1 << 60),
            near((1 << 64) - 3001),
            near(3000 - (1 << 63)),
        ]
    }

    fn json_integer(value: i128) -> serde_json::Value {
        match i64::try_from(value) {
            Ok(value) => json!(value),
            Err(_) => json!(u64::try_from(value).unwrap()),
        }
    }

    proptest! {
        #[test]
        fn integers_of_64_bits_are_in_their_exact_order_and_are_read_back(a in integer(), b in integer()) {
            let (x, y) = (number(json_integer(a)), number(json_integer(b)));
            prop_assert_eq!(x.partial_cmp(&y), Some(a.cmp(&b)));
            prop_assert_eq!(x.rounded(), a as f64);
            let written = serde_json::to_string(&x).unwrap();
            prop_assert_eq!(number(serde_json::from_str(&written).unwrap()), x);
        }

        #[test]
        fn an_integer_and_a_float_are_in_their_exact_order(a in integer(), b in integer(), below in any::<bool>()) {
            // A float near the integer, and an integer that is exactly the float.
            let near = b as f64;
            let float = if below { near.next_down() } else { near };
            prop_assume!(float.fract() == 0.0);
            prop_assert_eq!(number(json_integer(a)).partial_cmp(&float.into()), Some(a.cmp(&(float as i128))));
        }
    }
}
