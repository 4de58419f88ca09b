//! Filters on the metadata of passages: what they mean. [`crate::filter::columns`] evaluates the same
//! filters for whole segments.

pub(crate) mod bitset;
pub(crate) mod columns;
pub(crate) mod json;
pub(crate) mod metadata;
pub(crate) mod number;

use std::cmp::Ordering;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

pub use self::number::Number;

/// The first character of reserved keys, under which the index itself stores facts about passages.
pub(crate) const RESERVED: char = '$';

/// Which passages may be found, by their metadata. Its JSON form is that of OpenAI's vector stores,
/// `{"type":"eq","key":"year","value":1821}`, and in addition `{"type":"not","filter":{…}}`.
///
/// - A key names a field of the metadata; a field of an object in it is named with a dot: `a.b`,
///   which is also the name of a field that is literally called `a.b`. A field whose name begins
///   with `$` cannot be named.
/// - A list holds each of its elements. So `eq` asks whether the list contains a value, and two
///   ranges may be matched by two different elements. `null` and an empty list hold nothing.
/// - A missing field matches no `eq`, `in` or range. `ne`, `nin` and `not` are exact complements,
///   so they find the passages without the field.
/// - A value is only equal to, less or greater than values of its own type. Numbers are compared by
///   their exact value: 1 is 1.0, -0 is 0. Integers are exact up to 64 bits, and larger ones are rounded
///   to f64. Strings are compared by their bytes: ISO dates are in order.
/// - An `and` of nothing matches every passage; an `or` or `in` of nothing matches none.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Filter {
    /// The field holds the value.
    Eq {
        /// The field.
        key: String,
        /// The value.
        value: Scalar,
    },
    /// The field does not hold the value.
    Ne {
        /// The field.
        key: String,
        /// The value.
        value: Scalar,
    },
    /// The field holds a greater value.
    Gt {
        /// The field.
        key: String,
        /// The bound, which does not match itself.
        value: Scalar,
    },
    /// The field holds the value or a greater one.
    Gte {
        /// The field.
        key: String,
        /// The bound, which matches too.
        value: Scalar,
    },
    /// The field holds a smaller value.
    Lt {
        /// The field.
        key: String,
        /// The bound, which does not match itself.
        value: Scalar,
    },
    /// The field holds the value or a smaller one.
    Lte {
        /// The field.
        key: String,
        /// The bound, which matches too.
        value: Scalar,
    },
    /// The field holds one of the values.
    In {
        /// The field.
        key: String,
        /// The values.
        #[serde(rename = "value")]
        values: Vec<Scalar>,
    },
    /// The field holds none of the values.
    Nin {
        /// The field.
        key: String,
        /// The values.
        #[serde(rename = "value")]
        values: Vec<Scalar>,
    },
    /// All of the filters match.
    And {
        /// The filters.
        filters: Vec<Filter>,
    },
    /// One of the filters matches.
    Or {
        /// The filters.
        filters: Vec<Filter>,
    },
    /// The filter does not match.
    Not {
        /// The filter.
        filter: Box<Filter>,
    },
}

/// A value that metadata can be compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// False or true, in this order.
    Bool(bool),
    /// A number; NaN is equal to, less and greater than nothing.
    Number(Number),
    /// A string.
    Text(String),
}

impl Filter {
    /// The filter that asks for all of `filters`.
    pub fn all(mut filters: Vec<Self>) -> Self {
        match filters.len() {
            1 => filters.remove(0),
            _ => Self::And { filters },
        }
    }

    /// Whether a passage with this metadata matches.
    pub fn matches(&self, metadata: Option<&Map<String, Value>>) -> bool {
        use Ordering::{Equal, Greater, Less};
        let any = |key: &str, value: &Scalar, wanted: &[Ordering]| {
            holds(metadata, key, |found| {
                found
                    .partial_cmp(&value.borrow())
                    .is_some_and(|order| wanted.contains(&order))
            })
        };
        let any_of = |key: &str, values: &[Scalar]| {
            holds(metadata, key, |found| {
                values.iter().any(|value| found == value.borrow())
            })
        };
        match self {
            Self::Eq { key, value } => any(key, value, &[Equal]),
            Self::Ne { key, value } => !any(key, value, &[Equal]),
            Self::Gt { key, value } => any(key, value, &[Greater]),
            Self::Gte { key, value } => any(key, value, &[Greater, Equal]),
            Self::Lt { key, value } => any(key, value, &[Less]),
            Self::Lte { key, value } => any(key, value, &[Less, Equal]),
            Self::In { key, values } => any_of(key, values),
            Self::Nin { key, values } => !any_of(key, values),
            Self::And { filters } => filters.iter().all(|f| f.matches(metadata)),
            Self::Or { filters } => filters.iter().any(|f| f.matches(metadata)),
            Self::Not { filter } => !filter.matches(metadata),
        }
    }
}

/// Whether the field `key` holds a value that passes `test`.
fn holds(
    metadata: Option<&Map<String, Value>>,
    key: &str,
    test: impl Fn(ScalarRef<'_>) -> bool,
) -> bool {
    !key.starts_with(RESERVED) && metadata.is_some_and(|fields| holds_in(fields, key, &test))
}

fn holds_in(fields: &Map<String, Value>, key: &str, test: &impl Fn(ScalarRef<'_>) -> bool) -> bool {
    // A dot may separate two names or be part of one name, so every name that the key begins with
    // is tried.
    fields.iter().any(|(name, value)| {
        let rest = key.strip_prefix(name.as_str());
        rest.is_some_and(|rest| match rest.strip_prefix('.') {
            Some(rest) => any_element(value, &|element| match element {
                Value::Object(fields) => holds_in(fields, rest, test),
                _ => false,
            }),
            None => {
                rest.is_empty()
                    && any_element(value, &|v| ScalarRef::from_json(v).is_some_and(test))
            }
        })
    })
}

/// Whether a value or, if it is a list, one of its elements passes `test`.
fn any_element(value: &Value, test: &dyn Fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(|element| any_element(element, test)),
        _ => test(value),
    }
}

/// A [`Scalar`] that borrows its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ScalarRef<'a> {
    Bool(bool),
    Number(Number),
    Text(&'a str),
}

impl<'a> ScalarRef<'a> {
    /// The scalar that a JSON value is compared as. Lists, objects and null cannot be compared.
    pub(crate) fn from_json(value: &'a Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(value) => Number::from_json(value).map(Self::Number),
            Value::String(value) => Some(Self::Text(value)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

impl PartialOrd for ScalarRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl Scalar {
    pub(crate) fn borrow(&self) -> ScalarRef<'_> {
        match self {
            Self::Bool(value) => ScalarRef::Bool(*value),
            Self::Number(value) => ScalarRef::Number(*value),
            Self::Text(value) => ScalarRef::Text(value),
        }
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Scalar {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Scalar {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// Random metadata and filters over few names and values, so that they often meet.
#[cfg(test)]
pub(crate) mod random {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            prop::sample::select(vec![
                json!(true),
                json!(false),
                json!(0),
                json!(-0.0),
                json!(1),
                json!(1.0),
                json!(-2.5),
                json!(1e300),
                json!(9007199254740992u64),
                json!(9007199254740993u64),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(""),
                json!("1"),
                json!("a"),
                json!("ab"),
                json!("é"),
                json!("1821-07-28"),
            ]),
            any::<f64>().prop_map(|x| json!(x)),
            (-3i64..4).prop_map(|n| json!(n)),
            "[ab\u{10ffff}]{0,3}".prop_map(|s| json!(s)),
        ]
    }

    /// The metadata of a passage, which may be absent.
    pub(crate) fn metadata() -> impl Strategy<Value = Option<Map<String, Value>>> {
        let name = || prop::sample::select(vec!["a", "b", "c", "a.b", "", "$d", "a.b.c"]);
        let value = prop_oneof![9 => leaf(), 1 => Just(Value::Null)].prop_recursive(
            3,
            12,
            4,
            move |inner| {
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                    prop::collection::hash_map(name().prop_map(String::from), inner, 0..4)
                        .prop_map(|fields| Value::Object(fields.into_iter().collect())),
                ]
            },
        );
        let fields = prop::collection::hash_map(name().prop_map(String::from), value, 0..5);
        prop::option::weighted(0.9, fields.prop_map(|fields| fields.into_iter().collect()))
    }

    fn scalar() -> impl Strategy<Value = Scalar> {
        leaf().prop_filter_map("no scalar", |value| match value {
            Value::Bool(value) => Some(Scalar::Bool(value)),
            Value::Number(value) => Number::from_json(&value).map(Scalar::Number),
            Value::String(value) => Some(Scalar::Text(value)),
            _ => None,
        })
    }

    /// A filter such as JSON can name.
    pub(crate) fn filter() -> impl Strategy<Value = Filter> {
        let key = prop::sample::select(vec!["a", "b", "c", "a.b", "a.c", "a.b.c", ".a", "z"]);
        let values = prop::collection::vec(scalar(), 0..4);
        let leaf = (key, scalar(), values, 0..8).prop_map(|(key, value, values, which)| {
            let key = key.to_owned();
            match (which, &value) {
                (0, _) => Filter::Eq { key, value },
                (1, _) => Filter::Ne { key, value },
                (2, Scalar::Number(_) | Scalar::Text(_)) => Filter::Gt { key, value },
                (3, Scalar::Number(_) | Scalar::Text(_)) => Filter::Gte { key, value },
                (4, Scalar::Number(_) | Scalar::Text(_)) => Filter::Lt { key, value },
                (5, Scalar::Number(_) | Scalar::Text(_)) => Filter::Lte { key, value },
                (6, _) => Filter::Nin { key, values },
                _ => Filter::In { key, values },
            }
        });
        leaf.prop_recursive(4, 20, 4, |inner| {
            let filters = prop::collection::vec(inner.clone(), 0..4);
            prop_oneof![
                filters.clone().prop_map(|filters| Filter::And { filters }),
                filters.prop_map(|filters| Filter::Or { filters }),
                inner.prop_map(negated),
            ]
        })
    }

    pub(crate) fn negated(filter: Filter) -> Filter {
        Filter::Not {
            filter: Box::new(filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::random::negated;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Whether metadata matches a filter in the short form.
    fn matches(metadata: Value, filter: &str) -> bool {
        let filter: Filter = filter.parse().unwrap();
        filter.matches(metadata.as_object())
    }

    #[test]
    fn a_field_that_is_not_there_meets_only_negations() {
        for metadata in [json!({}), json!({"year": null}), json!({"year": []})] {
            for filter in [
                "year=1",
                "year>0",
                "year<0",
                "year>=0",
                "year<=0",
                "year=[0,1]",
            ] {
                assert!(!matches(metadata.clone(), filter), "{filter}");
            }
            assert!(matches(metadata.clone(), "year!=1"));
            assert!(matches(metadata, "year!=[0,1]"));
        }
        let ne: Filter = "year!=1".parse().unwrap();
        assert!(ne.matches(None));
        assert!(!negated(ne).matches(None));
    }

    #[test]
    fn numbers_are_compared_by_value_and_never_with_strings() {
        assert!(matches(json!({"n": 1}), "n=1.0"));
        assert!(matches(json!({"n": -0.0}), "n=0"));
        assert!(!matches(json!({"n": -0.0}), "n<0"));
        assert!(matches(json!({"n": 10}), "n>9"));
        let neighbours = json!({"n": 9007199254740993u64});
        assert!(matches(neighbours.clone(), "n=9007199254740993"));
        assert!(matches(neighbours.clone(), "n>9007199254740992"));
        assert!(!matches(neighbours.clone(), "n=9007199254740992"));
        assert!(!matches(neighbours, "n>=9007199254740994"));
        assert!(matches(json!({"n": u64::MAX}), "n>18446744073709551614"));
        assert!(matches(json!({"n": i64::MIN}), "n<-9223372036854775807"));
        assert!(!matches(json!({"n": "1"}), "n=1"));
        assert!(!matches(json!({"n": "1"}), "n>0"));
        assert!(!matches(json!({"n": true}), "n=1"));
        assert!(matches(json!({"n": "1"}), "n=\"1\""));
        assert!(matches(json!({"n": "10"}), "n<\"9\""));
    }

    #[test]
    fn iso_dates_are_in_order() {
        let metadata = json!({"date": "1821-07-28"});
        assert!(matches(metadata.clone(), "date>=1821-01-01"));
        assert!(!matches(metadata, "date<1821-07-28"));
    }

    #[test]
    fn a_list_holds_its_elements_and_a_dot_names_a_field_within() {
        let metadata = json!({
            "tags": ["a", ["b"], 3],
            "author": [{"name": "Ana"}, {"name": ["Bo", "Cy"]}],
            "x.y": 1,
            "x": {"z": {"w": 2}, "y.v": 3}
        });
        for filter in [
            "tags=a",
            "tags=b",
            "tags=3",
            "tags>2",
            "author.name=Ana",
            "author.name=Cy",
            "x.y=1",
            "x.z.w=2",
            "x.y.v=3",
            "author!=Ana",
            "tags!=c",
        ] {
            assert!(matches(metadata.clone(), filter), "{filter}");
        }
        for filter in ["tags=c", "tags!=a", "author=Ana", "x.z=2", "xx.y=1", "x.=1"] {
            assert!(!matches(metadata.clone(), filter), "{filter}");
        }
    }

    #[test]
    fn a_field_with_a_reserved_name_holds_nothing() {
        let filter = Filter::Eq {
            key: "$document".into(),
            value: "d".into(),
        };
        assert!(!filter.matches(json!({"$document": "d"}).as_object()));
    }

    proptest! {
        #[test]
        fn negation_is_the_complement_and_de_morgan_holds(
            metadata in random::metadata(),
            a in random::filter(),
            b in random::filter(),
        ) {
            let matches = |filter: &Filter| filter.matches(metadata.as_ref());
            prop_assert_ne!(matches(&a), matches(&negated(a.clone())));
            let filters = vec![a.clone(), b.clone()];
            prop_assert_eq!(
                matches(&negated(Filter::And { filters })),
                matches(&Filter::Or { filters: vec![negated(a), negated(b)] })
            );
        }
    }
}
