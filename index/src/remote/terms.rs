//! Metadata as a database finds it: for each value that a passage holds one *term*.
//!
//! A term is the length of the field's name (u32, big-endian), the name, and the value as segments store it
//! ([`crate::filter::metadata`]). So the terms of a field's values of one type are a range of bytes in the order of the
//! values, and a filter means the same in a database and in a directory.

use serde_json::{Map, Value};

use crate::filter::metadata::{each_value, encode};
use crate::filter::{RESERVED, ScalarRef};

/// The terms of a passage's metadata, each once.
pub(super) fn terms(metadata: Option<&Map<String, Value>>) -> Vec<Vec<u8>> {
    let mut terms = Vec::new();
    each_value(metadata, &mut |name, value| terms.extend(term(name, value)));
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// None for NaN, which is equal to nothing, and for the index's own names, which cannot be asked for.
pub(super) fn term(name: &str, value: ScalarRef<'_>) -> Option<Vec<u8>> {
    if name.starts_with(RESERVED) {
        return None;
    }
    let mut term = prefix(name);
    encode(value, &mut term).then_some(term)
}

/// What the terms of a field's values begin with.
pub(super) fn prefix(name: &str) -> Vec<u8> {
    let mut prefix = (name.len() as u32).to_be_bytes().to_vec();
    prefix.extend(name.as_bytes());
    prefix
}
