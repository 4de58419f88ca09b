//! Metadata as it is stored for filters: for each field its values in order, and for each value
//! the passages that hold it. [`crate::filter::columns`] reads it.
//!
//! ```text
//! "onegenM2", passages (u32), fields (u32), then for each field, ascending by name:
//!   length of its name (u32), passages that have the field (u32),
//!   values, bytes of all values, postings            (u64 each),
//!   its name                                         (UTF-8)
//!   where each value's bytes end                     (u64 × values)
//!   where each value's postings end                  (u64 × values)
//!   the values' bytes, ascending, each value once
//!   the postings: passages of each value, ascending  (u32 × postings)
//! ```
//!
//! A value is stored as one byte for its type and then bytes that sort in the order of the values,
//! so that a range of values is one slice of the postings. Sizes are little-endian, and nothing
//! is aligned. In files that begin with "onegenM1" integers beyond 2^53 are rounded to f64.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::filter::{RESERVED, Scalar, ScalarRef};

/// The first bytes of the file; the digit is the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"onegenM2";

/// The first bytes of an older file, in which integers are rounded to f64.
pub(crate) const ROUNDED_MAGIC: [u8; 8] = *b"onegenM1";

/// Types of values, in the order that they are stored in.
pub(crate) const BOOL: u8 = 0;
pub(crate) const NUMBER: u8 = 1;
pub(crate) const TEXT: u8 = 2;

/// Bytes that are passed to the writer at once.
const CHUNK: usize = 1 << 16;

/// Appends a value in its stored form. For NaN, which has no place in the order, it returns false
/// and appends nothing.
pub(crate) fn encode(value: ScalarRef<'_>, out: &mut Vec<u8>) -> bool {
    match value {
        ScalarRef::Bool(value) => out.extend([BOOL, value.into()]),
        ScalarRef::Number(value) if value.floor().is_nan() => return false,
        ScalarRef::Number(value) => {
            // Adding 0.0 turns -0 into 0. The bits of positive numbers sort in order and those of
            // negative numbers in reverse order; the sign bit sorts the wrong way round.
            let bits = (value.floor() + 0.0).to_bits();
            let sign = 1 << 63;
            let ordered = if bits & sign == 0 { bits | sign } else { !bits };
            out.push(NUMBER);
            out.extend(ordered.to_be_bytes());
            // An integer that is no f64 is longer than the f64 below it, and so comes after it.
            if value.rest() > 0 {
                out.extend(value.rest().to_be_bytes());
            }
        }
        ScalarRef::Text(value) => {
            out.push(TEXT);
            out.extend(value.as_bytes());
        }
    }
    true
}

/// Every value that a passage's metadata holds, with the name of its field: that of an object's field is `a.b`, and
/// each element of a list is a value of the list's field. Fields whose name begins with `$` are left out.
pub(crate) fn each_value<'m>(
    metadata: Option<&'m Map<String, Value>>,
    each: &mut impl FnMut(&str, ScalarRef<'m>),
) {
    fn values<'m>(name: &mut String, value: &'m Value, each: &mut impl FnMut(&str, ScalarRef<'m>)) {
        match value {
            Value::Array(elements) => {
                for element in elements {
                    values(name, element, each);
                }
            }
            Value::Object(fields) => {
                let length = name.len();
                for (field, value) in fields {
                    name.push('.');
                    name.push_str(field);
                    values(name, value, each);
                    name.truncate(length);
                }
            }
            _ => {
                if let Some(value) = ScalarRef::from_json(value) {
                    each(name, value);
                }
            }
        }
    }
    let mut name = String::new();
    for (field, value) in metadata.into_iter().flatten() {
        if !field.starts_with(RESERVED) {
            name.clear();
            name.push_str(field);
            values(&mut name, value, each);
        }
    }
}

/// Collects metadata of passages in memory: 8 to 24 bytes for each value that a passage holds, and
/// about 100 and its length for each distinct one.
#[derive(Default)]
pub(crate) struct MetadataWriter {
    fields: HashMap<String, Field>,
    // A buffer that is reused: the value being pushed, in its stored form.
    value: Vec<u8>,
}

#[derive(Default)]
struct Field {
    /// Stored values, numbered in the order in which they were first seen.
    values: HashMap<Box<[u8]>, u32>,
    /// The last passage pushed for each value, by its number.
    last: Vec<u32>,
    /// (value, passage), in the order of passages.
    pairs: Vec<(u32, u32)>,
    /// Passages that have the field, and the last of them.
    passages: u32,
    last_passage: Option<u32>,
}

impl MetadataWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a passage's metadata. Passages come in ascending order. Fields whose name begins with
    /// `$` are left out, because such names are the index's own.
    pub(crate) fn push(&mut self, passage: u32, metadata: Option<&Map<String, Value>>) {
        each_value(metadata, &mut |name, value| {
            self.push_value(passage, name, value);
        });
    }

    /// Adds a value under one of the index's own keys, which begin with `$`, to the passage that
    /// was pushed last or to the next one.
    pub(crate) fn push_reserved(&mut self, passage: u32, key: &str, value: &Scalar) {
        debug_assert!(key.starts_with(RESERVED));
        self.push_value(passage, key, value.borrow());
    }

    fn push_value(&mut self, passage: u32, name: &str, value: ScalarRef<'_>) {
        self.value.clear();
        if !encode(value, &mut self.value) {
            return;
        }
        match self.fields.get_mut(name) {
            Some(field) => field.push(passage, &self.value),
            None => {
                let mut field = Field::default();
                field.push(passage, &self.value);
                self.fields.insert(name.to_owned(), field);
            }
        }
    }

    /// Writes the file for a segment of so many passages.
    ///
    /// # Errors
    /// Those of `write`.
    pub(crate) fn finish<E>(
        self,
        passages: u32,
        write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = Chunks {
            buffer: Vec::with_capacity(CHUNK),
            write,
        };
        let mut fields: Vec<(String, Field)> = self.fields.into_iter().collect();
        fields.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        out.put(&MAGIC)?;
        out.put(&passages.to_le_bytes())?;
        out.put(&(fields.len() as u32).to_le_bytes())?;
        for (name, field) in fields {
            field.finish(&name, &mut out)?;
        }
        out.flush()
    }
}

impl Field {
    fn push(&mut self, passage: u32, value: &[u8]) {
        if self.last_passage != Some(passage) {
            self.last_passage = Some(passage);
            self.passages += 1;
        }
        let number = match self.values.get(value) {
            // A list may hold a value twice.
            Some(&number) if self.last[number as usize] == passage => return,
            Some(&number) => {
                self.last[number as usize] = passage;
                number
            }
            None => {
                // Values beyond u32 would not fit into any machine's memory.
                let number = self.last.len() as u32;
                self.values.insert(value.into(), number);
                self.last.push(passage);
                number
            }
        };
        self.pairs.push((number, passage));
    }

    fn finish<E>(
        self,
        name: &str,
        out: &mut Chunks<impl FnMut(&[u8]) -> Result<(), E>>,
    ) -> Result<(), E> {
        let mut values: Vec<(Box<[u8]>, u32)> = self.values.into_iter().collect();
        values.sort_unstable();

        out.put(&(name.len() as u32).to_le_bytes())?;
        out.put(&self.passages.to_le_bytes())?;
        let bytes: usize = values.iter().map(|(value, _)| value.len()).sum();
        for size in [values.len(), bytes, self.pairs.len()] {
            out.put(&(size as u64).to_le_bytes())?;
        }
        out.put(name.as_bytes())?;

        let mut end = 0u64;
        for (value, _) in &values {
            end += value.len() as u64;
            out.put(&end.to_le_bytes())?;
        }
        // These numbers are first how many postings each value has, then where they begin, and
        // finally, when the postings are filled in, where they end.
        let mut ends = vec![0usize; values.len()];
        for &(value, _) in &self.pairs {
            ends[value as usize] += 1;
        }
        let mut begin = 0;
        for (_, value) in &values {
            let count = std::mem::replace(&mut ends[*value as usize], begin);
            begin += count;
            out.put(&(begin as u64).to_le_bytes())?;
        }
        for (value, _) in &values {
            out.put(value)?;
        }
        let mut postings = vec![0u32; self.pairs.len()];
        for (value, passage) in self.pairs {
            let end = &mut ends[value as usize];
            postings[*end] = passage;
            *end += 1;
        }
        out.put(bytemuck::cast_slice(&postings))
    }
}

/// Passes bytes on in larger pieces.
struct Chunks<W> {
    buffer: Vec<u8>,
    write: W,
}

impl<E, W: FnMut(&[u8]) -> Result<(), E>> Chunks<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.buffer.len() + bytes.len() > CHUNK {
            self.flush()?;
            if bytes.len() > CHUNK {
                return (self.write)(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), E> {
        (self.write)(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn stored(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(encode(ScalarRef::from_json(value).unwrap(), &mut bytes));
        bytes
    }

    #[test]
    fn the_file_is_what_its_description_says() {
        let mut writer = MetadataWriter::new();
        let metadata = json!({"b": ["y", "x", "y"], "a": {"n": 1}, "$own": 7});
        writer.push(0, metadata.as_object());
        writer.push(1, None);
        writer.push_reserved(2, "$d", &true.into());
        writer.push(2, json!({"b": "x"}).as_object());
        let mut file = Vec::new();
        writer
            .finish(3, |bytes| {
                file.extend_from_slice(bytes);
                Ok::<(), ()>(())
            })
            .unwrap();

        let header = |name: &str, passages: u32, sizes: [u64; 3]| {
            let mut bytes = (name.len() as u32).to_le_bytes().to_vec();
            bytes.extend(passages.to_le_bytes());
            sizes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(name.as_bytes());
            bytes
        };
        let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let u32s = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let parts: Vec<Vec<u8>> = vec![
            b"onegenM2".to_vec(),
            u32s(&[3, 3]),
            header("$d", 1, [1, 2, 1]),
            u64s(&[2, 1]),
            vec![BOOL, 1],
            u32s(&[2]),
            header("a.n", 1, [1, 9, 1]),
            u64s(&[9, 1]),
            vec![NUMBER, 0xbf, 0xf0, 0, 0, 0, 0, 0, 0],
            u32s(&[0]),
            header("b", 2, [2, 4, 3]),
            u64s(&[2, 4, 2, 3]),
            vec![TEXT, b'x', TEXT, b'y'],
            u32s(&[0, 2, 0]),
        ];
        assert_eq!(file, parts.concat());
    }

    #[test]
    fn minus_zero_is_stored_as_zero_and_nan_not_at_all() {
        assert_eq!(stored(&json!(-0.0)), stored(&json!(0)));
        assert!(!encode(ScalarRef::Number(f64::NAN.into()), &mut Vec::new()));
    }

    proptest! {
        #[test]
        fn stored_values_are_in_the_order_of_the_values(a in any::<f64>(), b in any::<f64>(), s in ".{0,4}", t in ".{0,4}") {
            prop_assert_eq!(stored(&json!(a)).cmp(&stored(&json!(b))), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(stored(&json!(s)).cmp(&stored(&json!(t))), s.cmp(&t));
            prop_assert!(stored(&json!(a)) < stored(&json!(s)));
            prop_assert!(stored(&json!(true)) < stored(&json!(a)));
        }

        #[test]
        fn stored_integers_are_in_order_beyond_2_to_the_53(a in any::<u64>(), b in any::<i64>(), distance in 0u64..4096) {
            let near = a.saturating_add(distance);
            prop_assert_eq!(stored(&json!(a)).cmp(&stored(&json!(near))), a.cmp(&near));
            prop_assert_eq!(stored(&json!(b)).cmp(&stored(&json!(a))), i128::from(b).cmp(&i128::from(a)));
            let lower = b.saturating_sub(distance as i64);
            prop_assert_eq!(stored(&json!(lower)).cmp(&stored(&json!(b))), lower.cmp(&b));
        }
    }
}
