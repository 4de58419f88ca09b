//! Reading filters: from JSON as it comes over the wire, and from the command line's short form. A
//! filter that was read is within the limits, so the code that evaluates it need not check them
//! again.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::filter::{Filter, Number, RESERVED, Scalar};

/// The most levels of filters within filters.
const MAX_DEPTH: usize = 16;
/// The most filters within one filter, itself included. Each of them may look at every passage.
const MAX_FILTERS: usize = 256;
/// The most values in all lists of a filter together.
const MAX_VALUES: usize = 10_000;

const TYPES: &str = "eq, ne, gt, gte, lt, lte, in, nin, and, or or not";

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{at} {reason}")]
pub struct FilterError {
    /// Where in the filter, such as `filter.filters[1].value`.
    pub at: String,
    /// What is wrong there.
    #[source]
    pub reason: FilterReason,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterReason {
    /// It looks like JSON but is not valid JSON.
    #[error("is not JSON: {0}")]
    Json(String),
    /// It is in the short form but has no comparison.
    #[error(
        "{0:?} compares nothing; write key=value, with =, !=, >, >=, < or <=, or a JSON object such as {{\"type\":\"eq\",\"key\":\"year\",\"value\":1821}}"
    )]
    NoComparison(String),
    /// A value of another type.
    #[error("is {got}; it must be {expected}")]
    Type {
        /// What it is.
        got: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// No such type of filter.
    #[error("is {0:?}; it must be {TYPES}")]
    UnknownType(String),
    /// A field that this type of filter needs.
    #[error("has no {field:?}; it must be {expected}")]
    Missing {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A field that this type of filter does not have.
    #[error("has a field {field:?}; {of:?} takes {allowed} besides its type")]
    UnknownField {
        /// The field.
        field: String,
        /// The type of the filter.
        of: String,
        /// What that type takes.
        allowed: &'static str,
    },
    /// A key that names no field of metadata.
    #[error(
        "is {0:?}; it must name a metadata field, and names that begin with $ are the index's own"
    )]
    Key(String),
    /// The filter is larger than allowed.
    #[error("has more than {limit} {what}; ask for less at a time")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(serde::de::Error::custom)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Reads a filter from JSON, or from the short form of one comparison, `key=value`, with `=`,
    /// `!=`, `>`, `>=`, `<` or `<=`. The key goes up to the first of these. The value is JSON if it
    /// can be read as JSON (`1821`, `true`, `"1821"`, and a list after `=` or `!=` for `in` or
    /// `nin`); else it is a string as it stands.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let text = text.trim();
        let fail = |reason| FilterError {
            at: "filter".into(),
            reason,
        };
        if text.starts_with('{') {
            let value =
                serde_json::from_str(text).map_err(|e| fail(FilterReason::Json(e.to_string())))?;
            return Self::from_json(&value);
        }
        let (key, operator, value) =
            comparison(text).ok_or_else(|| fail(FilterReason::NoComparison(shortened(text))))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        let operator = match (operator, &value) {
            ("eq", Value::Array(_)) => "in",
            ("ne", Value::Array(_)) => "nin",
            _ => operator,
        };
        Self::from_json(&json!({"type": operator, "key": key, "value": value}))
    }
}

/// Key, type and value of the short form.
fn comparison(text: &str) -> Option<(&str, &'static str, &str)> {
    let (key, rest) = text.split_at(text.find(['=', '!', '<', '>'])?);
    let operators = [
        ("!=", "ne"),
        (">=", "gte"),
        ("<=", "lte"),
        ("==", "eq"),
        ("=", "eq"),
        (">", "gt"),
        ("<", "lt"),
    ];
    operators.iter().find_map(|(sign, operator)| {
        let value = rest.strip_prefix(sign)?;
        Some((key.trim(), *operator, value.trim()))
    })
}

impl Filter {
    /// Reads a filter from JSON.
    ///
    /// # Errors
    /// The value is not a filter, or it is larger than 16 levels, 256 filters or 10,000 listed
    /// values.
    pub fn from_json(value: &Value) -> Result<Self, FilterError> {
        let mut room = RemainingLimits {
            filters: MAX_FILTERS,
            values: MAX_VALUES,
        };
        room.filter(value, "filter", 1)
    }
}

/// How much a filter may still hold.
struct RemainingLimits {
    filters: usize,
    values: usize,
}

impl RemainingLimits {
    fn filter(&mut self, value: &Value, at: &str, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return Err(too_large(at, "levels", MAX_DEPTH));
        }
        self.filters = self
            .filters
            .checked_sub(1)
            .ok_or_else(|| too_large("filter", "filters", MAX_FILTERS))?;
        let node = Node::read(value, at)?;
        Ok(match node.kind {
            "and" => Filter::And {
                filters: self.filters(&node, depth)?,
            },
            "or" => Filter::Or {
                filters: self.filters(&node, depth)?,
            },
            "not" => {
                node.only(&["filter"], "\"filter\"")?;
                let inner = node.field("filter", "a filter")?;
                Filter::Not {
                    filter: Box::new(self.filter(inner, &format!("{at}.filter"), depth + 1)?),
                }
            }
            "in" => Filter::In {
                key: node.key()?,
                values: self.values(&node)?,
            },
            "nin" => Filter::Nin {
                key: node.key()?,
                values: self.values(&node)?,
            },
            "eq" => Filter::Eq {
                key: node.key()?,
                value: node.value()?,
            },
            "ne" => Filter::Ne {
                key: node.key()?,
                value: node.value()?,
            },
            "gt" => Filter::Gt {
                key: node.key()?,
                value: node.bound()?,
            },
            "gte" => Filter::Gte {
                key: node.key()?,
                value: node.bound()?,
            },
            "lt" => Filter::Lt {
                key: node.key()?,
                value: node.bound()?,
            },
            "lte" => Filter::Lte {
                key: node.key()?,
                value: node.bound()?,
            },
            other => {
                return Err(FilterError {
                    at: format!("{at}.type"),
                    reason: FilterReason::UnknownType(shortened(other)),
                });
            }
        })
    }

    fn filters(&mut self, node: &Node<'_>, depth: usize) -> Result<Vec<Filter>, FilterError> {
        node.only(&["filters"], "\"filters\"")?;
        let list = node.list("filters", "a list of filters")?;
        let items = list.iter().enumerate();
        items
            .map(|(n, item)| self.filter(item, &format!("{}.filters[{n}]", node.at), depth + 1))
            .collect()
    }

    fn values(&mut self, node: &Node<'_>) -> Result<Vec<Scalar>, FilterError> {
        let list = node.list("value", "a list of strings, numbers and booleans")?;
        self.values = self
            .values
            .checked_sub(list.len())
            .ok_or_else(|| too_large("filter", "listed values", MAX_VALUES))?;
        let items = list.iter().enumerate();
        items
            .map(|(n, item)| {
                scalar(item).ok_or_else(|| wrong(format!("{}.value[{n}]", node.at), item, SCALAR))
            })
            .collect()
    }
}

/// The fields of one filter.
struct Node<'a> {
    fields: &'a Map<String, Value>,
    kind: &'a str,
    at: &'a str,
}

impl<'a> Node<'a> {
    fn read(value: &'a Value, at: &'a str) -> Result<Self, FilterError> {
        let fields = value
            .as_object()
            .ok_or_else(|| wrong(at.into(), value, "an object with a \"type\""))?;
        let node = Self {
            fields,
            kind: "",
            at,
        };
        let kind = node.field("type", TYPES)?;
        let kind = kind
            .as_str()
            .ok_or_else(|| wrong(format!("{at}.type"), kind, TYPES))?;
        Ok(Self { kind, ..node })
    }

    fn field(&self, field: &'static str, expected: &'static str) -> Result<&'a Value, FilterError> {
        self.fields.get(field).ok_or_else(|| FilterError {
            at: self.at.into(),
            reason: FilterReason::Missing { field, expected },
        })
    }

    /// Refuses fields that are not in `allowed`. `words` lists the allowed fields for the error
    /// message.
    fn only(&self, allowed: &[&str], words: &'static str) -> Result<(), FilterError> {
        let mut names = self.fields.keys();
        match names.find(|name| *name != "type" && !allowed.contains(&name.as_str())) {
            None => Ok(()),
            Some(other) => Err(FilterError {
                at: self.at.into(),
                reason: FilterReason::UnknownField {
                    field: shortened(other),
                    of: self.kind.into(),
                    allowed: words,
                },
            }),
        }
    }

    fn key(&self) -> Result<String, FilterError> {
        const EXPECTED: &str = "the name of a metadata field";
        self.only(&["key", "value"], "\"key\" and \"value\"")?;
        let value = self.field("key", EXPECTED)?;
        let at = || format!("{}.key", self.at);
        let key = value.as_str().ok_or_else(|| wrong(at(), value, EXPECTED))?;
        if key.is_empty() || key.starts_with(RESERVED) {
            return Err(FilterError {
                at: at(),
                reason: FilterReason::Key(shortened(key)),
            });
        }
        Ok(key.into())
    }

    fn value(&self) -> Result<Scalar, FilterError> {
        let value = self.field("value", SCALAR)?;
        scalar(value).ok_or_else(|| wrong(format!("{}.value", self.at), value, SCALAR))
    }

    /// The bound of a range. Booleans are refused, because no query needs their order.
    fn bound(&self) -> Result<Scalar, FilterError> {
        const EXPECTED: &str = "a number or a string";
        let value = self.field("value", EXPECTED)?;
        scalar(value)
            .filter(|scalar| !matches!(scalar, Scalar::Bool(_)))
            .ok_or_else(|| wrong(format!("{}.value", self.at), value, EXPECTED))
    }

    fn list(
        &self,
        field: &'static str,
        expected: &'static str,
    ) -> Result<&'a Vec<Value>, FilterError> {
        let value = self.field(field, expected)?;
        value
            .as_array()
            .ok_or_else(|| wrong(format!("{}.{field}", self.at), value, expected))
    }
}

const SCALAR: &str = "a string, a number or a boolean";

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(*value)),
        Value::Number(value) => Number::from_json(value).map(Scalar::Number),
        Value::String(value) => Some(Scalar::Text(value.clone())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn wrong(at: String, value: &Value, expected: &'static str) -> FilterError {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    FilterError {
        at,
        reason: FilterReason::Type { got, expected },
    }
}

/// The beginning of a text that was sent, short enough for an error message.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

fn too_large(at: &str, what: &'static str, limit: usize) -> FilterError {
    FilterError {
        at: at.into(),
        reason: FilterReason::TooLarge { what, limit },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::random;
    use proptest::prelude::*;

    fn error(value: Value) -> String {
        Filter::from_json(&value).unwrap_err().to_string()
    }

    #[test]
    fn the_wire_format_is_openais_and_not_is_ours() {
        let wire = r#"{"type":"and","filters":[{"type":"gte","key":"year","value":1821},{"type":"or","filters":[{"type":"eq","key":"lang","value":"es"},{"type":"nin","key":"n","value":[1.5,true,"x"]}]},{"type":"not","filter":{"type":"in","key":"a.b","value":[]}}]}"#;
        let filter: Filter = serde_json::from_str(wire).unwrap();
        assert_eq!(serde_json::to_string(&filter).unwrap(), wire);
        assert_eq!(wire.parse::<Filter>().unwrap(), filter);
    }

    #[test]
    fn an_error_says_where_what_and_what_would_be_right() {
        let nested = json!({"type": "or", "filters": [
            {"type": "eq", "key": "a", "value": 1},
            {"type": "not", "filter": {"type": "eq", "key": "a", "value": null}},
        ]});
        let cases = [
            (
                nested,
                "filter.filters[1].filter.value is null; it must be a string, a number or a boolean",
            ),
            (
                json!({"type": "like", "key": "a", "value": "b"}),
                "filter.type is \"like\"; it must be eq, ne, gt, gte, lt, lte, in, nin, and, or or not",
            ),
            (
                json!({"year": {"$gte": 1821}}),
                "filter has no \"type\"; it must be eq, ne, gt, gte, lt, lte, in, nin, and, or or not",
            ),
            (
                json!({"type": 1}),
                "filter.type is a number; it must be eq, ne, gt, gte, lt, lte, in, nin, and, or or not",
            ),
            (
                json!([]),
                "filter is a list; it must be an object with a \"type\"",
            ),
            (
                json!({"type": "eq", "value": 1}),
                "filter has no \"key\"; it must be the name of a metadata field",
            ),
            (
                json!({"type": "eq", "key": "a"}),
                "filter has no \"value\"; it must be a string, a number or a boolean",
            ),
            (
                json!({"type": "eq", "key": "a", "value": [1]}),
                "filter.value is a list; it must be a string, a number or a boolean",
            ),
            (
                json!({"type": "lt", "key": "a", "value": true}),
                "filter.value is a boolean; it must be a number or a string",
            ),
            (
                json!({"type": "in", "key": "a", "value": "b"}),
                "filter.value is a string; it must be a list of strings, numbers and booleans",
            ),
            (
                json!({"type": "in", "key": "a", "value": [1, {}]}),
                "filter.value[1] is an object; it must be a string, a number or a boolean",
            ),
            (
                json!({"type": "and", "filter": []}),
                "filter has a field \"filter\"; \"and\" takes \"filters\" besides its type",
            ),
            (
                json!({"type": "and", "filters": {}}),
                "filter.filters is an object; it must be a list of filters",
            ),
            (
                json!({"type": "not"}),
                "filter has no \"filter\"; it must be a filter",
            ),
            (
                json!({"type": "eq", "key": "$document", "value": "d"}),
                "filter.key is \"$document\"; it must name a metadata field, and names that begin with $ are the index's own",
            ),
        ];
        for (value, expected) in cases {
            assert_eq!(error(value), expected);
        }
    }

    #[test]
    fn a_filter_is_read_up_to_its_limits_and_refused_beyond() {
        let leaf = json!({"type": "eq", "key": "a", "value": 1});
        let nest = |levels: usize| {
            (1..levels).fold(
                leaf.clone(),
                |inner, _| json!({"type": "not", "filter": inner}),
            )
        };
        assert!(Filter::from_json(&nest(MAX_DEPTH)).is_ok());
        assert!(
            error(nest(MAX_DEPTH + 1)).ends_with("has more than 16 levels; ask for less at a time")
        );

        let wide =
            |filters: usize| json!({"type": "or", "filters": vec![leaf.clone(); filters - 1]});
        assert!(Filter::from_json(&wide(MAX_FILTERS)).is_ok());
        assert!(error(wide(MAX_FILTERS + 1)).contains("more than 256 filters"));

        let listed = |values: usize| {
            let half = |n: usize| json!({"type": "in", "key": "a", "value": vec![1; n]});
            json!({"type": "or", "filters": [half(values / 2), half(values - values / 2)]})
        };
        assert!(Filter::from_json(&listed(MAX_VALUES)).is_ok());
        assert!(error(listed(MAX_VALUES + 1)).contains("more than 10000 listed values"));
    }

    #[test]
    fn the_short_form_is_one_comparison() {
        let cases = [
            (
                "year = 1821",
                json!({"type": "eq", "key": "year", "value": 1821}),
            ),
            (
                "year==1821",
                json!({"type": "eq", "key": "year", "value": 1821}),
            ),
            (
                "lang!=es",
                json!({"type": "ne", "key": "lang", "value": "es"}),
            ),
            (
                "a.b>=1.5",
                json!({"type": "gte", "key": "a.b", "value": 1.5}),
            ),
            ("a>-1", json!({"type": "gt", "key": "a", "value": -1})),
            ("a<=\"7\"", json!({"type": "lte", "key": "a", "value": "7"})),
            (
                "d<1821-07-28",
                json!({"type": "lt", "key": "d", "value": "1821-07-28"}),
            ),
            (
                "url=http://e.org/?a=b",
                json!({"type": "eq", "key": "url", "value": "http://e.org/?a=b"}),
            ),
            ("ok=true", json!({"type": "eq", "key": "ok", "value": true})),
            ("ok=", json!({"type": "eq", "key": "ok", "value": ""})),
            (
                "n=[1,\"a\"]",
                json!({"type": "in", "key": "n", "value": [1, "a"]}),
            ),
            ("n!=[]", json!({"type": "nin", "key": "n", "value": []})),
        ];
        for (short, long) in cases {
            let long: Filter = serde_json::from_value(long).unwrap();
            assert_eq!(short.parse(), Ok(long), "{short}");
        }
        let error = |text: &str| text.parse::<Filter>().unwrap_err().to_string();
        assert!(
            error("year 1821")
                .starts_with("filter \"year 1821\" compares nothing; write key=value")
        );
        assert!(error("a!b").contains("compares nothing"));
        assert!(error("=1").starts_with("filter.key is \"\""));
        assert!(error("a=null").starts_with("filter.value is null"));
        assert!(error("a>[1]").starts_with("filter.value is a list"));
        assert!(error("{\"type\":").starts_with("filter is not JSON: EOF"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(filter in random::filter()) {
            let value = serde_json::to_value(&filter).unwrap();
            prop_assert_eq!(Filter::from_json(&value), Ok(filter));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[{\"typevalukcond:,\\[\\]}=<>!0-9. ]{0,60}") {
            if let Ok(filter) = text.parse::<Filter>() {
                filter.matches(None);
            }
        }
    }
}
