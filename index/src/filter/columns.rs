//! Filters over a whole segment, from the file that [`crate::filter::metadata`] describes.

use std::ops::Range;

use crate::filter::bitset::Bitset;
use crate::filter::metadata::{BOOL, MAGIC, NUMBER, ROUNDED_MAGIC, TEXT, encode};
use crate::filter::{Filter, Scalar, ScalarRef};

/// The metadata of a segment, searched in its file's bytes.
///
/// Opening checks only the fields' headers. Whatever the other bytes are, nothing is read beyond
/// them; but a damaged file gives wrong answers, so its checksum must be verified first.
pub(crate) struct Columns<B> {
    bytes: B,
    fields: Vec<Field>,
    passages: u32,
    // Whether integers were rounded to f64 when the file was written.
    rounded: bool,
}

/// Where the parts of a field are in the bytes.
struct Field {
    name: Range<usize>,
    passages: u32,
    value_ends: Range<usize>,
    posting_ends: Range<usize>,
    values: Range<usize>,
    postings: Range<usize>,
}

/// A field and how often it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FieldCounts<'a> {
    /// Its name; those of the index itself begin with `$`.
    pub(crate) name: &'a str,
    /// Distinct values.
    pub(crate) values: usize,
    /// Passages that have it.
    pub(crate) passages: u32,
}

impl<B: AsRef<[u8]>> Columns<B> {
    /// Reads the fields' headers, for a segment of so many passages.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn parse(bytes: B, passages: u32) -> Result<Self, &'static str> {
        let all = bytes.as_ref();
        let mut at = 0usize;
        let mut take = |size: Option<usize>| -> Result<Range<usize>, &'static str> {
            let end = size.and_then(|size| at.checked_add(size));
            let end = end.filter(|&end| end <= all.len());
            let range = at..end.ok_or("a field goes beyond its end")?;
            at = range.end;
            Ok(range)
        };
        let magic = all.get(take(Some(8))?).unwrap_or_default();
        let rounded = magic == ROUNDED_MAGIC;
        if magic != MAGIC && !rounded {
            return Err("it does not begin as metadata does");
        }
        let header = take(Some(8))?;
        if u32_at(all, header.start) != Some(passages) {
            return Err("it is for another number of passages");
        }
        let count = u32_at(all, header.start + 4).unwrap_or_default();

        let mut fields: Vec<Field> = Vec::new();
        for _ in 0..count {
            let header = take(Some(32))?.start;
            let size = |offset| u64_at(all, header + offset).and_then(|n| usize::try_from(n).ok());
            let (values, bytes, postings) = (size(8), size(16), size(24));
            let field = Field {
                name: take(u32_at(all, header).map(|n| n as usize))?,
                passages: u32_at(all, header + 4).unwrap_or_default(),
                value_ends: take(values.and_then(|n| n.checked_mul(8)))?,
                posting_ends: take(values.and_then(|n| n.checked_mul(8)))?,
                values: take(bytes)?,
                postings: take(postings.and_then(|n| n.checked_mul(4)))?,
            };
            let name = &all[field.name.clone()];
            if std::str::from_utf8(name).is_err() {
                return Err("the name of a field is not UTF-8");
            }
            if fields
                .last()
                .is_some_and(|last| &all[last.name.clone()] >= name)
            {
                return Err("its fields are not in order");
            }
            if field.passages > passages {
                return Err("a field is in more passages than there are");
            }
            // The end of the last value shows whether the parts fit together.
            let end = |ends: &Range<usize>| {
                if ends.is_empty() {
                    Some(0)
                } else {
                    u64_at(all, ends.end - 8)
                }
            };
            if end(&field.value_ends) != bytes.map(|n| n as u64)
                || end(&field.posting_ends) != postings.map(|n| n as u64)
            {
                return Err("the values of a field do not cover its postings");
            }
            fields.push(field);
        }
        if at != all.len() {
            return Err("it goes on after its last field");
        }
        Ok(Self {
            bytes,
            fields,
            passages,
            rounded,
        })
    }

    /// The fields, by name.
    pub(crate) fn fields(&self) -> impl Iterator<Item = FieldCounts<'_>> {
        self.fields.iter().map(|field| FieldCounts {
            name: std::str::from_utf8(self.slice(&field.name)).unwrap_or_default(),
            values: field.count(),
            passages: field.passages,
        })
    }

    /// The passages that match. The time is proportional to the postings of the values that the
    /// filter names, plus one bit per passage for each filter within it.
    pub(crate) fn select(&self, filter: &Filter) -> Bitset {
        match filter {
            Filter::And { filters } => {
                let mut all = Bitset::full(self.passages as usize);
                for filter in filters {
                    all.and(&self.select(filter));
                }
                all
            }
            Filter::Or { filters } => {
                let mut any = Bitset::new(self.passages as usize);
                for filter in filters {
                    any.or(&self.select(filter));
                }
                any
            }
            Filter::Not { filter } => complement(self.select(filter)),
            Filter::Eq { key, value } => self.select_equal(key, std::slice::from_ref(value)),
            Filter::Ne { key, value } => {
                complement(self.select_equal(key, std::slice::from_ref(value)))
            }
            Filter::In { key, values } => self.select_equal(key, values),
            Filter::Nin { key, values } => complement(self.select_equal(key, values)),
            Filter::Gt { key, value } => {
                self.select_range(key, value, |place, of_type| place.end..of_type.end)
            }
            Filter::Gte { key, value } => {
                self.select_range(key, value, |place, of_type| place.start..of_type.end)
            }
            Filter::Lt { key, value } => {
                self.select_range(key, value, |place, of_type| of_type.start..place.start)
            }
            Filter::Lte { key, value } => {
                self.select_range(key, value, |place, of_type| of_type.start..place.end)
            }
        }
    }

    /// The passages whose field `key` holds `value`, ascending.
    pub(crate) fn holding(&self, key: &str, value: &Scalar) -> impl Iterator<Item = u32> {
        let postings = self.field(key).and_then(|field| {
            let place = self.place(field, &self.stored(value)?);
            Some(self.postings(field, place))
        });
        postings.into_iter().flatten()
    }

    /// The texts of a field, ascending, each with the passages that hold it.
    pub(crate) fn texts(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&str, impl Iterator<Item = u32>)> {
        let field = self.field(key);
        let field = field.map(|field| (field, self.before(field, |v| v < [TEXT].as_slice())));
        field.into_iter().flat_map(move |(field, first)| {
            (first..field.count()).map(move |place| {
                let text = self.value(field, place).strip_prefix(&[TEXT]);
                let text = text.and_then(|text| std::str::from_utf8(text).ok());
                (
                    text.unwrap_or_default(),
                    self.postings(field, place..place + 1),
                )
            })
        })
    }

    fn select_equal(&self, key: &str, values: &[Scalar]) -> Bitset {
        let mut selected = Bitset::new(self.passages as usize);
        if let Some(field) = self.field(key) {
            // A value that the filter lists twice is looked up once.
            let mut values: Vec<Vec<u8>> = values
                .iter()
                .filter_map(|value| self.stored(value))
                .collect();
            values.sort_unstable();
            values.dedup();
            for value in &values {
                let place = self.place(field, value);
                self.postings(field, place).for_each(|p| selected.set(p));
            }
        }
        selected
    }

    /// The passages that hold a value in a range. The range is computed from the place where
    /// `value` is or would be, and from the range of all values of its type.
    fn select_range(
        &self,
        key: &str,
        value: &Scalar,
        range: impl Fn(Range<usize>, Range<usize>) -> Range<usize>,
    ) -> Bitset {
        let mut selected = Bitset::new(self.passages as usize);
        if let Some(field) = self.field(key)
            && let Some(stored) = self.stored(value)
        {
            let tag = match value {
                Scalar::Bool(_) => BOOL,
                Scalar::Number(_) => NUMBER,
                Scalar::Text(_) => TEXT,
            };
            let of_type = self.before(field, |v| v < [tag].as_slice())
                ..self.before(field, |v| v < [tag + 1].as_slice());
            let range = range(self.place(field, &stored), of_type);
            self.postings(field, range).for_each(|p| selected.set(p));
        }
        selected
    }

    /// A value as this file stores it; `None` for NaN.
    fn stored(&self, value: &Scalar) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let value = match value.borrow() {
            ScalarRef::Number(number) if self.rounded => ScalarRef::Number(number.rounded().into()),
            value => value,
        };
        encode(value, &mut bytes).then_some(bytes)
    }

    fn field(&self, key: &str) -> Option<&Field> {
        let by_name = |field: &Field| self.slice(&field.name).cmp(key.as_bytes());
        let at = self.fields.binary_search_by(by_name).ok()?;
        self.fields.get(at)
    }

    /// Where a value is in its field: a range of one place, or an empty range before the first
    /// greater value.
    fn place(&self, field: &Field, value: &[u8]) -> Range<usize> {
        self.before(field, |v| v < value)..self.before(field, |v| v <= value)
    }

    /// How many values of a field pass `test`. The values are ascending, and those that pass come
    /// first.
    fn before(&self, field: &Field, test: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, field.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if test(self.value(field, middle)) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        low
    }

    /// A value as it is stored.
    fn value(&self, field: &Field, place: usize) -> &[u8] {
        let range = between(self.slice(&field.value_ends), place..place + 1);
        let value = range.and_then(|range| self.slice(&field.values).get(range));
        value.unwrap_or_default()
    }

    /// The passages of a range of values: ascending for one value.
    fn postings(
        &self,
        field: &Field,
        values: Range<usize>,
    ) -> impl Iterator<Item = u32> + use<'_, B> {
        let (postings, _) = self.slice(&field.postings).as_chunks::<4>();
        let range = between(self.slice(&field.posting_ends), values);
        let postings = range.and_then(|range| postings.get(range));
        postings
            .unwrap_or_default()
            .iter()
            .map(|&passage| u32::from_le_bytes(passage))
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        // Ranges were checked against the length, but a `B` may return other bytes the next time.
        self.bytes.as_ref().get(range.clone()).unwrap_or_default()
    }
}

impl Field {
    fn count(&self) -> usize {
        self.value_ends.len() / 8
    }
}

fn complement(mut set: Bitset) -> Bitset {
    set.not();
    set
}

/// The bytes from the beginning of the first value to the end of the last, given the end of each.
/// `None` if there are no values.
fn between(ends: &[u8], values: Range<usize>) -> Option<Range<usize>> {
    if values.is_empty() {
        return None;
    }
    let end = |value: usize| {
        let end = u64_at(ends, value.checked_mul(8)?)?;
        usize::try_from(end).ok()
    };
    let begin = match values.start.checked_sub(1) {
        None => 0,
        Some(previous) => end(previous)?,
    };
    Some(begin..end(values.end - 1)?)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*number))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::metadata::MetadataWriter;
    use crate::filter::random;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    type Metadata = Option<Map<String, Value>>;

    fn file(passages: &[Metadata]) -> Vec<u8> {
        let mut writer = MetadataWriter::new();
        for (number, metadata) in passages.iter().enumerate() {
            writer.push(number as u32, metadata.as_ref());
            let parity = if number % 2 == 0 { "even" } else { "odd" };
            writer.push_reserved(number as u32, "$parity", &parity.into());
        }
        let mut file = Vec::new();
        let write = |bytes: &[u8]| {
            file.extend_from_slice(bytes);
            Ok::<(), ()>(())
        };
        writer.finish(passages.len() as u32, write).unwrap();
        file
    }

    fn passages() -> impl Strategy<Value = Vec<Metadata>> {
        prop::collection::vec(random::metadata(), 0..90)
    }

    #[test]
    fn fields_and_postings_are_counted_as_they_were_pushed() {
        let passages: Vec<Metadata> = [
            json!({"tags": ["a", "b", "a"], "year": 1821}),
            json!({"tags": [], "year": 1821.0}),
            json!({"tags": "b", "x": {"y": null}}),
        ]
        .map(|metadata| metadata.as_object().cloned())
        .to_vec();
        let columns = Columns::parse(file(&passages), 3).unwrap();
        let fields: Vec<_> = columns
            .fields()
            .map(|f| (f.name, f.values, f.passages))
            .collect();
        assert_eq!(fields, [("$parity", 2, 3), ("tags", 2, 2), ("year", 1, 2)]);
        assert!(columns.holding("tags", &"b".into()).eq([0, 2]));
        assert!(columns.holding("year", &1821.0.into()).eq([0, 1]));
        assert!(columns.holding("$parity", &"even".into()).eq([0, 2]));
        assert!(columns.holding("tags", &"c".into()).next().is_none());
        assert!(columns.holding("none", &"c".into()).next().is_none());
        assert!(columns.holding("year", &f64::NAN.into()).next().is_none());
    }

    #[test]
    fn a_file_of_rounded_integers_is_searched_by_rounded_integers() {
        let number = |n: u64| json!({"n": n}).as_object().cloned();
        let mut bytes = file(&[number(9007199254740992), number(1)]);
        bytes[..8].copy_from_slice(&ROUNDED_MAGIC);
        let columns = Columns::parse(&bytes, 2).unwrap();
        let filter: Filter = "n=9007199254740993".parse().unwrap();
        assert!(columns.select(&filter).ones().eq([0]));
        let filter: Filter = "n<9007199254740993".parse().unwrap();
        assert!(columns.select(&filter).ones().eq([1]));
    }

    #[test]
    fn a_file_of_no_passages_selects_nothing() {
        let columns = Columns::parse(file(&[]), 0).unwrap();
        assert_eq!(columns.select(&Filter::And { filters: vec![] }).count(), 0);
        assert_eq!(columns.fields().count(), 0);
    }

    #[test]
    fn a_file_for_other_passages_or_of_another_length_is_refused() {
        let whole = file(&[json!({"a": [1, 2], "b": "x"}).as_object().cloned()]);
        assert!(Columns::parse(&whole, 1).is_ok());
        assert!(Columns::parse(&whole, 2).is_err());
        for length in 0..whole.len() {
            assert!(Columns::parse(&whole[..length], 1).is_err(), "{length}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(Columns::parse(&longer, 1).is_err());
    }

    /// Calls every method on a file that may be damaged.
    fn walk(bytes: &[u8], passages: u32, filter: &Filter) {
        let Ok(columns) = Columns::parse(bytes, passages) else {
            return;
        };
        let selected = columns.select(filter);
        assert!(selected.ones().all(|passage| passage < passages));
        for field in columns.fields() {
            for value in [Scalar::from(""), true.into(), 0.0.into()] {
                let key = field.name.to_owned();
                columns.holding(&key, &value).for_each(drop);
                columns.select(&Filter::Gte { key, value });
            }
        }
    }

    proptest! {
        #[test]
        fn selects_exactly_the_passages_that_match(passages in passages(), filter in random::filter()) {
            let bytes = file(&passages);
            let columns = Columns::parse(&bytes, passages.len() as u32).unwrap();
            let selected = columns.select(&filter);
            let wanted = (0..passages.len() as u32)
                .filter(|&p| filter.matches(passages[p as usize].as_ref()));
            prop_assert!(selected.ones().eq(wanted));
            let rest = columns.select(&random::negated(filter));
            prop_assert_eq!(rest, complement(selected));
        }

        #[test]
        fn ranges_and_equality_select_what_matches_one_by_one(passages in passages(), key in prop::sample::select(vec!["a", "b", "a.b"])) {
            let bytes = file(&passages);
            let columns = Columns::parse(&bytes, passages.len() as u32).unwrap();
            for value in [Scalar::from(1.0), 0.0.into(), (-2.5).into(), "a".into(), "".into(), true.into(), false.into()] {
                let key = || key.to_owned();
                let value = || value.clone();
                for filter in [
                    Filter::Eq { key: key(), value: value() },
                    Filter::Gt { key: key(), value: value() },
                    Filter::Gte { key: key(), value: value() },
                    Filter::Lt { key: key(), value: value() },
                    Filter::Lte { key: key(), value: value() },
                ] {
                    let wanted = (0..passages.len() as u32)
                        .filter(|&p| filter.matches(passages[p as usize].as_ref()));
                    prop_assert!(columns.select(&filter).ones().eq(wanted), "{:?}", filter);
                }
            }
        }

        #[test]
        fn any_bytes_are_refused_or_safe_to_search(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            fields in 0u32..3,
            filter in random::filter(),
        ) {
            walk(&bytes, 3, &filter);
            let mut begun = MAGIC.to_vec();
            begun.extend(3u32.to_le_bytes());
            begun.extend(fields.to_le_bytes());
            begun.extend(bytes);
            walk(&begun, 3, &filter);
        }

        #[test]
        fn a_damaged_file_is_refused_or_safe_to_search(
            passages in prop::collection::vec(random::metadata(), 1..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff)]), 1..12),
            filter in random::filter(),
        ) {
            let mut bytes = file(&passages);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            walk(&bytes, passages.len() as u32, &filter);
        }
    }
}
