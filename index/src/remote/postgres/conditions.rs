//! Filters as conditions on the terms of passages ([`crate::remote::terms`]).

use std::fmt::Write;

use tokio_postgres::types::ToSql;

use crate::filter::metadata::{BOOL, NUMBER, TEXT};
use crate::filter::{Filter, Scalar};
use crate::remote::terms::{prefix, term};

/// What a statement takes.
pub(super) type Parameters = Vec<Box<dyn ToSql + Sync>>;

/// The condition on `p.terms` that a filter is. Its parameters are appended to those that the statement has.
pub(super) fn condition(filter: &Filter, parameters: &mut Parameters) -> String {
    let mut equal_to_one = |key: &str, values: &[Scalar]| {
        let terms = values.iter().filter_map(|value| term(key, value.borrow()));
        let terms: Vec<Vec<u8>> = terms.collect();
        match terms.as_slice() {
            [] => "false".to_owned(),
            _ => format!("p.terms && {}", parameter(terms, parameters)),
        }
    };
    match filter {
        Filter::Eq { key, value } => equal_to_one(key, std::slice::from_ref(value)),
        Filter::In { key, values } => equal_to_one(key, values),
        Filter::Ne { key, value } => {
            format!("NOT ({})", equal_to_one(key, std::slice::from_ref(value)))
        }
        Filter::Nin { key, values } => format!("NOT ({})", equal_to_one(key, values)),
        Filter::Gt { key, value } => range(
            key,
            value,
            (">", Bound::Value),
            ("<", Bound::End),
            parameters,
        ),
        Filter::Gte { key, value } => range(
            key,
            value,
            (">=", Bound::Value),
            ("<", Bound::End),
            parameters,
        ),
        Filter::Lt { key, value } => range(
            key,
            value,
            (">=", Bound::Begin),
            ("<", Bound::Value),
            parameters,
        ),
        Filter::Lte { key, value } => range(
            key,
            value,
            (">=", Bound::Begin),
            ("<=", Bound::Value),
            parameters,
        ),
        Filter::And { filters } => joined(filters, "AND", "true", parameters),
        Filter::Or { filters } => joined(filters, "OR", "false", parameters),
        Filter::Not { filter } => format!("NOT ({})", condition(filter, parameters)),
    }
}

fn joined(filters: &[Filter], word: &str, of_none: &str, parameters: &mut Parameters) -> String {
    let mut all = String::new();
    for filter in filters {
        if !all.is_empty() {
            let _ = write!(all, " {word} ");
        }
        let _ = write!(all, "({})", condition(filter, parameters));
    }
    if all.is_empty() {
        of_none.to_owned()
    } else {
        all
    }
}

/// An end of a range of a field's values of one type.
#[derive(Clone, Copy)]
enum Bound {
    Value,
    /// The first value of the type that there could be.
    Begin,
    /// What comes after all values of the type.
    End,
}

fn range(
    key: &str,
    value: &Scalar,
    from: (&str, Bound),
    to: (&str, Bound),
    parameters: &mut Parameters,
) -> String {
    let Some(term) = term(key, value.borrow()) else {
        return "false".to_owned();
    };
    let tag = match value {
        Scalar::Bool(_) => BOOL,
        Scalar::Number(_) => NUMBER,
        Scalar::Text(_) => TEXT,
    };
    let bytes = |bound| match bound {
        Bound::Value => term.clone(),
        Bound::Begin => [prefix(key), vec![tag]].concat(),
        Bound::End => [prefix(key), vec![tag + 1]].concat(),
    };
    let (above, below) = (from.0, to.0);
    let from = parameter(bytes(from.1), parameters);
    let to = parameter(bytes(to.1), parameters);
    format!(
        "EXISTS (SELECT FROM unnest(p.terms) term WHERE term {above} {from} AND term {below} {to})"
    )
}

/// Appends a parameter; its name in the statement.
pub(super) fn parameter(value: impl ToSql + Sync + 'static, parameters: &mut Parameters) -> String {
    parameters.push(Box::new(value));
    format!("${}", parameters.len())
}
