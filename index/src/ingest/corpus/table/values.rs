//! The values of a table as JSON: times as ISO texts, decimals and floats as the numbers that they are
//! written as.

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use ::parquet::record::{Field, List, Map as FieldMap, Row};
use ::parquet::schema::types::Type;
use half::f16;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Span, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::columns::{Column, described};
use crate::ingest::corpus::left_out::LeftOut;
use crate::ingest::corpus::record::RecordReason;

/// The most values of a list. A longer one, such as an embedding, is no metadata.
const LONGEST_LIST: usize = 100;

/// Reads the values of one column. What has no counterpart in JSON is null and is named.
pub(super) struct Reading<'r> {
    column: &'r Column,
    left_out: &'r mut LeftOut,
}

impl<'r> Reading<'r> {
    pub(super) fn new(column: &'r Column, left_out: &'r mut LeftOut) -> Self {
        Self { column, left_out }
    }

    /// A value as JSON. Fields of a struct that are null are left out: a table has every field in every
    /// row. Floats that are no number, pandas' sign of a missing one, are null.
    ///
    /// # Errors
    /// A field of a document is not UTF-8.
    pub(super) fn json(
        &mut self,
        value: Field,
        of_type: Option<&Type>,
    ) -> Result<Value, RecordReason> {
        Ok(match value {
            Field::Null => Value::Null,
            Field::Bool(value) => value.into(),
            Field::Byte(value) => value.into(),
            Field::Short(value) => value.into(),
            Field::Int(value) => value.into(),
            Field::Long(value) => match of_type.and_then(time_unit) {
                None => value.into(),
                Some((kind, unit)) => self.time(kind, i128::from(value) * unit),
            },
            Field::UByte(value) => value.into(),
            Field::UShort(value) => value.into(),
            Field::UInt(value) => value.into(),
            Field::ULong(value) => value.into(),
            Field::Float16(value) => float(shortest_f16(value)),
            // The shortest decimal of an f32 is what was written: 0.1, not 0.10000000149011612.
            Field::Float(value) => float(value.to_string().parse().unwrap_or(f64::NAN)),
            Field::Double(value) => float(value),
            Field::Decimal(_) => decimal(&value.to_string()),
            Field::Str(value) => match of_type.filter(|of_type| is_json(of_type)) {
                Some(_) if !self.is_text() => {
                    serde_json::from_str(&value).unwrap_or_else(|_| value.into())
                }
                _ => value.into(),
            },
            Field::Bytes(value) => self.bytes(value.data(), of_type)?,
            Field::Date(days) => {
                let date = Span::new().try_days(days);
                let date = date.and_then(|days| Date::constant(1970, 1, 1).checked_add(days));
                self.iso(date.map(|date| date.to_string()).ok())
            }
            Field::TimeMillis(value) => self.time(TimeKind::OfDay, i128::from(value) * MILLI),
            Field::TimeMicros(value) => self.time(TimeKind::OfDay, i128::from(value) * MICRO),
            Field::TimestampMillis(value) => {
                self.time(timestamp_kind(of_type), i128::from(value) * MILLI)
            }
            Field::TimestampMicros(value) => {
                self.time(timestamp_kind(of_type), i128::from(value) * MICRO)
            }
            Field::Group(row) => self.object(row, of_type)?,
            Field::ListInternal(list) => self.list(&list, of_type)?,
            Field::MapInternal(map) => self.map(&map, of_type)?,
        })
    }

    fn object(&mut self, row: Row, of_type: Option<&Type>) -> Result<Value, RecordReason> {
        let mut object = Map::new();
        for (name, value) in row.into_columns() {
            let fields = of_type.filter(|of_type| !of_type.is_primitive());
            let mut fields = fields.into_iter().flat_map(|of_type| of_type.get_fields());
            let field = fields.find(|field| field.name() == name);
            let value = self.json(value, field.map(|field| &**field))?;
            if !value.is_null() {
                object.insert(name, value);
            }
        }
        Ok(object.into())
    }

    fn list(&mut self, list: &List, of_type: Option<&Type>) -> Result<Value, RecordReason> {
        let elements = list.elements().len();
        if elements > LONGEST_LIST && self.column.name != "metadata" {
            self.leave_out(&format!("lists of more than {LONGEST_LIST} values"));
            return Ok(Value::Null);
        }
        let of_type = of_type.map(element_type);
        let elements = list.elements().iter();
        let elements = elements.map(|element| self.json(element.clone(), of_type));
        Ok(elements.collect::<Result<Vec<Value>, _>>()?.into())
    }

    fn map(&mut self, map: &FieldMap, of_type: Option<&Type>) -> Result<Value, RecordReason> {
        let entry = of_type.filter(|of_type| !of_type.is_primitive());
        let entry = entry.and_then(|of_type| of_type.get_fields().first());
        let entry = entry.filter(|entry| !entry.is_primitive());
        let part = |number: usize| Some(&**entry?.get_fields().get(number)?);
        let mut object = Map::new();
        for (key, value) in map.entries() {
            let key = match self.json(key.clone(), part(0))? {
                Value::String(key) => key,
                key => key.to_string(),
            };
            object.insert(key, self.json(value.clone(), part(1))?);
        }
        Ok(object.into())
    }

    /// Whether the column is a field of a document that is a text, and no metadata.
    fn is_text(&self) -> bool {
        self.column.is_field && self.column.name != "metadata"
    }

    /// Bytes as the text that they are, or as a UUID.
    fn bytes(&mut self, bytes: &[u8], of_type: Option<&Type>) -> Result<Value, RecordReason> {
        let logical = of_type.and_then(|of_type| of_type.get_basic_info().logical_type_ref());
        if let (Some(LogicalType::Uuid), Ok(uuid)) = (logical, Uuid::from_slice(bytes)) {
            return Ok(uuid.to_string().into());
        }
        // Texts of a fixed length are filled up with zeros. Zeros within are of a number.
        let text = std::str::from_utf8(bytes).map(|text| text.trim_end_matches('\0'));
        match text {
            Ok(text) if self.is_text() || !text.contains('\0') => Ok(text.into()),
            Err(_) if self.is_text() => Err(RecordReason::NotUtf8("a value")),
            _ => {
                self.leave_out("bytes that are no text");
                Ok(Value::Null)
            }
        }
    }

    /// Nanoseconds since 1970, or since midnight, as ISO text.
    fn time(&mut self, kind: TimeKind, nanoseconds: i128) -> Value {
        let text = match kind {
            TimeKind::Utc => timestamp(nanoseconds).map(|time| time.to_string()),
            TimeKind::Local => {
                timestamp(nanoseconds).map(|time| Offset::UTC.to_datetime(time).to_string())
            }
            TimeKind::OfDay => time_of_day(nanoseconds).map(|time| time.to_string()),
        };
        self.iso(text)
    }

    fn iso(&mut self, text: Option<String>) -> Value {
        match text {
            Some(text) => text.into(),
            None => {
                self.leave_out("times beyond the year 9999");
                Value::Null
            }
        }
    }

    fn leave_out(&mut self, what: &str) {
        let (name, of_type) = (&self.column.name, described(&self.column.of_type));
        let name = format!("{name} ({of_type}: {what})");
        self.left_out
            .add_column("columns with values that are not read", name);
    }
}

const MILLI: i128 = 1_000_000;
const MICRO: i128 = 1_000;
const NANO: i128 = 1;

#[derive(Debug, Clone, Copy, PartialEq)]
enum TimeKind {
    /// An instant; its text ends in `Z`.
    Utc,
    /// A date and a time of no zone.
    Local,
    OfDay,
}

/// Of an integer that is a time: what kind of time, and nanoseconds for each unit.
fn time_unit(of_type: &Type) -> Option<(TimeKind, i128)> {
    let (kind, unit) = match of_type.get_basic_info().logical_type_ref()? {
        LogicalType::Timestamp(time) => (timestamp_kind(Some(of_type)), &time.unit),
        LogicalType::Time(time) => (TimeKind::OfDay, &time.unit),
        _ => return None,
    };
    let nanoseconds = match unit {
        TimeUnit::MILLIS => MILLI,
        TimeUnit::MICROS => MICRO,
        TimeUnit::NANOS => NANO,
    };
    Some((kind, nanoseconds))
}

fn is_json(of_type: &Type) -> bool {
    of_type.get_basic_info().converted_type() == ConvertedType::JSON
}

/// A timestamp of the older types of Parquet is an instant; one of 96 bits has no zone.
fn timestamp_kind(of_type: Option<&Type>) -> TimeKind {
    let Some(of_type) = of_type.filter(|of_type| of_type.is_primitive()) else {
        return TimeKind::Utc;
    };
    match of_type.get_basic_info().logical_type_ref() {
        Some(LogicalType::Timestamp(time)) if !time.is_adjusted_to_u_t_c => TimeKind::Local,
        _ if of_type.get_physical_type() == PhysicalType::INT96 => TimeKind::Local,
        _ => TimeKind::Utc,
    }
}

fn timestamp(nanoseconds: i128) -> Option<Timestamp> {
    Timestamp::from_nanosecond(nanoseconds).ok()
}

fn time_of_day(nanoseconds: i128) -> Option<Time> {
    let since_midnight = SignedDuration::from_nanos(i64::try_from(nanoseconds).ok()?);
    Time::midnight().checked_add(since_midnight).ok()
}

/// The type of a list's elements. Old writers leave out a level of the usual three.
fn element_type(list: &Type) -> &Type {
    if list.is_primitive() || list.get_basic_info().converted_type() != ConvertedType::LIST {
        return list;
    }
    match list.get_fields().first() {
        Some(repeated) if repeated.is_primitive() => repeated,
        Some(repeated) => match repeated.get_fields() {
            [element] if repeated.name() != "array" && !repeated.name().ends_with("_tuple") => {
                element
            }
            _ => repeated,
        },
        None => list,
    }
}

/// A number, or null for what JSON cannot write.
fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// A decimal as a number: an integer where it is one of 64 bits without a fraction, else the nearest f64,
/// which is the number that the same digits are in a filter.
fn decimal(digits: &str) -> Value {
    let digits = digits.trim_end_matches('.');
    if let Ok(integer) = digits.parse::<i64>() {
        return integer.into();
    }
    if let Ok(integer) = digits.parse::<u64>() {
        return integer.into();
    }
    float(digits.parse().unwrap_or(f64::NAN))
}

/// The shortest decimal that is nearest to this f16 among all.
fn shortest_f16(value: f16) -> f64 {
    let exact = f64::from(value);
    let rounded = (0..5).filter_map(|digits| format!("{exact:.digits$e}").parse().ok());
    let mut same = rounded.filter(|&rounded| f16::from_f64(rounded) == value);
    same.next().unwrap_or(exact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decimals_and_small_floats_are_the_numbers_that_are_written() {
        assert_eq!(decimal("123."), json!(123));
        assert_eq!(decimal("-1.50"), json!(-1.5));
        assert_eq!(decimal("18446744073709551615"), json!(u64::MAX));
        assert_eq!(decimal("99999999999999999999"), json!(1e20));
        assert_eq!(shortest_f16(f16::from_f64(0.1)), 0.1);
        assert_eq!(shortest_f16(f16::MAX), 65500.0);
        assert_eq!(shortest_f16(f16::from_f64(-0.0)), 0.0);
        assert_eq!(float(shortest_f16(f16::NAN)), Value::Null);
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let read = f16::from_f64(shortest_f16(value));
            assert!(read == value || value.is_nan(), "{value}");
        }
    }

    #[test]
    fn times_are_iso_and_those_beyond_it_are_none() {
        let utc = |nanoseconds| timestamp(nanoseconds).map(|time| time.to_string());
        assert_eq!(utc(1).as_deref(), Some("1970-01-01T00:00:00.000000001Z"));
        assert_eq!(utc(-1_000_000_000).as_deref(), Some("1969-12-31T23:59:59Z"));
        assert_eq!(utc(i128::from(i64::MAX) * MILLI), None);
        let of_day = |nanoseconds| time_of_day(nanoseconds).map(|time| time.to_string());
        assert_eq!(
            of_day(3_600_000_000_001).as_deref(),
            Some("01:00:00.000000001")
        );
        assert_eq!(of_day(86_400_000_000_000), None);
    }
}
