//! What a filter asks of a passage, as one JSON value beside it, because Milvus knows no conditions on lists of lists
//! or on values of several types:
//!
//! ```text
//! {"terms": [a name for each term, …], "min_F": the least value, "max_F": the greatest one, …}
//! ```
//!
//! A name is a digest of the term, so that a long value takes no more room than a short one. `F` is a digest of the
//! field's name and the type of the values. A value stands there in hexadecimal, whose order as text is the order of
//! the values; whether some value of a field is above a bound is whether the greatest one is.

use serde_json::{Map, Value};

use crate::remote::terms::terms;
use crate::segment::passages::digest_of;

/// The most bytes of a value whose order is known. Longer ones are cut, and come after all that they begin with.
pub(super) const ORDERED_BYTES: usize = 256;
/// Comes after all hexadecimal digits.
const CUT: char = 'g';

/// The JSON value of a passage.
pub(super) fn facts(metadata: Option<&Map<String, Value>>) -> Value {
    let terms = terms(metadata);
    let mut facts = Map::new();
    for term in &terms {
        let Some((field, value)) = split(term) else {
            continue;
        };
        // Terms are in ascending order, and with them the values of a field.
        let value = Value::from(ordered(value));
        facts.entry(least(field)).or_insert_with(|| value.clone());
        facts.insert(greatest(field), value);
    }
    let names: Vec<String> = terms.iter().map(|term| name(term)).collect();
    facts.insert("terms".into(), names.into());
    facts.into()
}

/// How a term is called.
pub(super) fn name(term: &[u8]) -> String {
    hex(&digest_of(term))
}

/// The key of a field's least value of a type. `field` is the beginning of its terms and the type.
pub(super) fn least(field: &[u8]) -> String {
    format!("min_{}", name(field))
}

/// The key of a field's greatest value of a type.
pub(super) fn greatest(field: &[u8]) -> String {
    format!("max_{}", name(field))
}

/// A term in two: its field with the type of its value, and the value.
pub(super) fn split(term: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, _) = term.split_first_chunk::<4>()?;
    term.split_at_checked(4 + u32::from_be_bytes(*length) as usize + 1)
}

/// A value as text of the same order.
pub(super) fn ordered(value: &[u8]) -> String {
    match value.split_at_checked(ORDERED_BYTES) {
        Some((beginning, rest)) if !rest.is_empty() => {
            let mut text = hex(beginning);
            text.push(CUT);
            text
        }
        _ => hex(value),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(metadata: Value) -> Value {
        facts(metadata.as_object())
    }

    #[test]
    fn a_field_has_its_least_and_greatest_value_of_each_type() {
        let facts = of(json!({"a": [3, -1, "x", 2.5, ["y"]], "b": true}));
        assert_eq!(facts["terms"].as_array().unwrap().len(), 6);
        // Two of the numbers, two of the texts, two of the boolean.
        assert_eq!(facts.as_object().unwrap().len(), 1 + 6);
        let one = of(json!({"a": [-1, 3]}));
        let keys: Vec<&String> = one.as_object().unwrap().keys().collect();
        for key in keys.into_iter().filter(|key| *key != "terms") {
            assert_eq!(one[key], facts[key]);
        }
        assert_eq!(of(json!({})), json!({"terms": []}));
    }

    #[test]
    fn the_order_of_values_is_that_of_their_texts_also_where_they_are_cut() {
        let long = |bytes: usize| vec![b'a'; bytes];
        let mut values = [
            vec![],
            vec![0],
            vec![b'a'],
            long(ORDERED_BYTES),
            long(ORDERED_BYTES + 1),
            vec![b'a', b'b'],
            vec![255],
        ];
        values.sort();
        let texts: Vec<String> = values.iter().map(|value| ordered(value)).collect();
        assert!(texts.is_sorted());
        assert!(texts.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
