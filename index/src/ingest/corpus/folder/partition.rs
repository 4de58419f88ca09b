//! Columns that stand in the names of directories: `year=2026/part-0.parquet`, as Hive, Spark, pyarrow and
//! DuckDB write a table that is divided by a column.

use std::borrow::Cow;
use std::path::{Component, Path};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// What Hive writes for a missing value.
const MISSING: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that the directories of a path name.
pub(super) fn columns(path: &Path) -> Map<String, Value> {
    let directories = path.parent().into_iter().flat_map(Path::components);
    let named = directories.filter_map(|directory| match directory {
        Component::Normal(name) => name.to_str()?.split_once('='),
        _ => None,
    });
    let there = named.filter(|(name, value)| !name.is_empty() && *value != MISSING);
    let value = |text: String| match text.parse::<i64>() {
        // A number that is written back as it was: not 007.
        Ok(number) if number.to_string() == text => Value::from(number),
        _ => text.into(),
    };
    there
        .map(|(name, text)| (decoded(name), value(decoded(text))))
        .collect()
}

/// A text without percent-encoding; as it stands if it has none, or none that makes sense.
fn decoded(text: &str) -> String {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn directories_name_columns() {
        let columns = |path: &str| Value::Object(columns(Path::new(path)));
        assert_eq!(
            columns("year=2026/city=S%C3%A3o%20Paulo/zip=007/part-0.parquet"),
            json!({"year": 2026, "city": "São Paulo", "zip": "007"})
        );
        assert_eq!(
            columns("a/k=__HIVE_DEFAULT_PARTITION__/x=1.parquet"),
            json!({})
        );
        assert_eq!(
            columns("100%=%/%ff=%4/p"),
            json!({"100%": "%", "%ff": "%4"})
        );
    }
}
