//! Which columns of a table are read.

use std::collections::HashSet;
use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use crate::ingest::corpus::left_out::LeftOut;

/// Columns that are fields of a document.
const FIELDS: [&str; 6] = ["id", "_id", "title", "text", "url", "metadata"];

/// The columns of a table: the fields of a document, and all others whose values have a counterpart in JSON.
pub(super) struct Columns {
    read: Vec<Column>,
    /// Each column that is not read: why not, and its name with its type.
    unread: Vec<(&'static str, String)>,
}

/// A column that is read.
pub(super) struct Column {
    pub(super) name: String,
    /// Its type; of a struct without the fields that are not read.
    pub(super) of_type: TypePtr,
    /// Whether it is a field of the document. Others are metadata.
    pub(super) is_field: bool,
}

impl Columns {
    /// Chooses the columns of a file.
    ///
    /// # Errors
    /// A field that every document needs is missing, or a field is of a type that is not read.
    pub(super) fn choose(file: &FileMetaData) -> Result<Self, String> {
        let columns = file.schema().get_fields();
        let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
        for needed in [&["text"][..], &["id", "_id"]] {
            if !names.iter().any(|name| needed.contains(name)) {
                return Err(format!("has no column {:?}, only {names:?}", needed[0]));
            }
        }
        let own_index = pandas_index(file);
        let mut chosen = Self {
            read: Vec::new(),
            unread: Vec::new(),
        };
        for column in columns {
            let name = column.name();
            let is_field = FIELDS.contains(&name);
            if is_field && name != "metadata" && !is_text_or_number(column) {
                return Err(format!("column {name:?} is of a type that is not read"));
            }
            if !is_field && own_index.contains(name) {
                let reason = "columns that are pandas' own index";
                chosen.unread.push((reason, name.to_owned()));
                continue;
            }
            match chosen.readable(column, name) {
                Some(of_type) => chosen.read.push(Column {
                    name: name.to_owned(),
                    of_type,
                    is_field,
                }),
                None if is_field => {
                    return Err(format!("column {name:?} is of a type that is not read"));
                }
                None => {}
            }
        }
        Ok(chosen)
    }

    pub(super) fn read(&self) -> &[Column] {
        &self.read
    }

    pub(super) fn types(&self) -> Vec<TypePtr> {
        self.read
            .iter()
            .map(|column| column.of_type.clone())
            .collect()
    }

    /// Names the columns that are not read.
    pub(super) fn report(&mut self, left_out: &mut LeftOut) {
        for (reason, name) in self.unread.drain(..) {
            left_out.add_column(reason, name);
        }
    }

    /// A type without what is not read in it, if anything is left.
    fn readable(&mut self, of_type: &TypePtr, path: &str) -> Option<TypePtr> {
        if is_readable(of_type) {
            return Some(of_type.clone());
        }
        if let Type::GroupType { fields, basic_info } = &**of_type
            && is_struct(of_type)
        {
            let path = |field: &Type| format!("{path}.{}", field.name());
            let kept = fields
                .iter()
                .filter_map(|field| self.readable(field, &path(field)));
            let kept: Vec<TypePtr> = kept.collect();
            if kept.is_empty() {
                return None;
            }
            let group = Type::group_type_builder(of_type.name())
                .with_repetition(basic_info.repetition())
                .with_fields(kept)
                .build();
            return group.ok().map(Arc::new);
        }
        let name = format!("{path} ({})", described(of_type));
        self.unread
            .push(("columns of a type that is not read", name));
        None
    }
}

/// The columns into which pandas wrote an index that nobody had named; fastparquet names it `index` or
/// `level_0`. One that has another name was made by somebody and is read as other columns.
fn pandas_index(file: &FileMetaData) -> HashSet<String> {
    let is_numbered = |name: &str, before: &str, after: &str| {
        let number = name
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let columns = file.schema().get_fields().iter();
    let names = columns.map(|column| column.name().to_owned());
    let mut own: HashSet<String> = names
        .filter(|name| is_numbered(name, "__index_level_", "__"))
        .collect();
    let written = file.key_value_metadata().into_iter().flatten();
    let pandas = written
        .filter(|entry| entry.key == "pandas")
        .find_map(|entry| serde_json::from_str::<Value>(entry.value.as_deref()?).ok());
    let Some(pandas) = pandas else {
        return own;
    };
    let list = |name: &str| pandas[name].as_array().cloned().unwrap_or_default();
    let columns = list("columns");
    let unnamed = |index: &str| {
        let is_index = |column: &&Value| column["field_name"] == index;
        let named = columns.iter().find(is_index).map(|column| &column["name"]);
        named.is_some_and(Value::is_null) || index == "index" || is_numbered(index, "level_", "")
    };
    let index = list("index_columns");
    let index = index.iter().filter_map(Value::as_str);
    own.extend(index.filter(|index| unnamed(index)).map(str::to_owned));
    own
}

/// Whether a group is no list and no map.
fn is_struct(group: &Type) -> bool {
    use ConvertedType as C;
    let info = group.get_basic_info();
    let is_repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
    let kind = info.converted_type();
    !is_repeated
        && !matches!(kind, C::LIST | C::MAP | C::MAP_KEY_VALUE)
        && !matches!(info.logical_type_ref(), Some(LogicalType::Variant(_)))
}

/// Whether values of a type, with all that is within it, have a counterpart in JSON.
fn is_readable(of_type: &Type) -> bool {
    use ConvertedType as C;
    use PhysicalType as P;
    let info = of_type.get_basic_info();
    if let Type::GroupType { fields, .. } = of_type {
        let is_variant = matches!(info.logical_type_ref(), Some(LogicalType::Variant(_)));
        // A group without fields is no struct that a table can hold, and its reader has no rows.
        return !is_variant && !fields.is_empty() && fields.iter().all(|field| is_readable(field));
    }
    match (of_type.get_physical_type(), info.converted_type()) {
        (P::BOOLEAN | P::FLOAT | P::DOUBLE | P::INT96, _) => true,
        (P::INT32, C::DATE | C::TIME_MILLIS) => true,
        (P::INT64, C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS) => true,
        (P::INT64, C::NONE) if is_time(of_type) => true,
        (P::INT32 | P::INT64, C::DECIMAL) => is_decimal(of_type),
        (P::BYTE_ARRAY | P::FIXED_LEN_BYTE_ARRAY, C::DECIMAL) => is_decimal(of_type),
        (P::BYTE_ARRAY | P::FIXED_LEN_BYTE_ARRAY, C::NONE) => !is_geography(of_type),
        _ => holds_text_or_number(of_type),
    }
}

/// Whether a column holds one text, number or boolean in each row, or nothing: what a document's own fields
/// may be.
fn is_text_or_number(column: &Type) -> bool {
    column.is_primitive()
        && column.get_basic_info().repetition() != Repetition::REPEATED
        && holds_text_or_number(column)
}

/// Whether the values of a primitive type are texts, numbers, booleans or nothing. Old writers store texts
/// as plain bytes.
fn holds_text_or_number(of_type: &Type) -> bool {
    use ConvertedType as C;
    use PhysicalType as P;
    let info = of_type.get_basic_info();
    match of_type.get_physical_type() {
        P::BOOLEAN | P::FLOAT | P::DOUBLE => true,
        P::INT32 | P::INT64 => match info.converted_type() {
            C::INT_8 | C::INT_16 | C::INT_32 | C::INT_64 => true,
            C::UINT_8 | C::UINT_16 | C::UINT_32 | C::UINT_64 => true,
            // Nanoseconds have a logical type only, and so has a column of nothing but nulls.
            C::NONE => matches!(
                info.logical_type_ref(),
                None | Some(LogicalType::Integer(_) | LogicalType::Unknown)
            ),
            _ => false,
        },
        P::BYTE_ARRAY => match info.converted_type() {
            C::UTF8 | C::ENUM | C::JSON => true,
            C::NONE => !is_geography(of_type),
            _ => false,
        },
        P::FIXED_LEN_BYTE_ARRAY | P::INT96 => {
            matches!(info.logical_type_ref(), Some(LogicalType::Unknown))
        }
    }
}

fn is_time(of_type: &Type) -> bool {
    let logical = of_type.get_basic_info().logical_type_ref();
    matches!(
        logical,
        Some(LogicalType::Timestamp(_) | LogicalType::Time(_))
    )
}

/// Whether the digits of a decimal make sense.
fn is_decimal(of_type: &Type) -> bool {
    match of_type {
        Type::PrimitiveType {
            scale, precision, ..
        } => *scale >= 0 && precision >= scale,
        Type::GroupType { .. } => false,
    }
}

fn is_geography(of_type: &Type) -> bool {
    let logical = of_type.get_basic_info().logical_type_ref();
    matches!(
        logical,
        Some(LogicalType::Geometry(_) | LogicalType::Geography(_) | LogicalType::File)
    )
}

/// A type in Parquet's words.
pub(super) fn described(of_type: &Type) -> String {
    let info = of_type.get_basic_info();
    let annotation = match (info.converted_type(), info.logical_type_ref()) {
        (ConvertedType::NONE, Some(logical)) => {
            let logical = format!("{logical:?}");
            let name = logical.split(['(', ' ', '{']).next().unwrap_or_default();
            Some(name.to_uppercase())
        }
        (ConvertedType::NONE, None) => None,
        (converted, _) => Some(converted.to_string()),
    };
    let base = match of_type {
        Type::GroupType { .. } => "group".to_owned(),
        Type::PrimitiveType { physical_type, .. } => physical_type.to_string(),
    };
    match annotation {
        Some(annotation) => format!("{base} {annotation}"),
        None => base,
    }
}
