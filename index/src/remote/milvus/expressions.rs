//! Filters as Milvus's expressions on the facts of passages ([`super::facts`]).

use super::facts::{ORDERED_BYTES, greatest, least, name, ordered, split};
use crate::filter::{Filter, Scalar};
use crate::remote::terms::term;

/// What no row is.
const NOTHING: &str = "(sequence < 0)";
/// What each row is.
const ALL: &str = "(sequence >= 0)";

/// The most levels of an expression. Milvus 2.3 parses a search's within some hundred levels of its own, of which each
/// of these takes two, and takes a deeper one for none at all.
const LEVELS: usize = 40;

/// An expression and its levels.
struct Expression {
    text: String,
    levels: usize,
}

/// The expression that a filter is.
///
/// # Errors
/// What of the filter Milvus cannot be asked for.
pub(super) fn expression(filter: &Filter) -> Result<String, String> {
    let Expression { text, levels } = parse(filter)?;
    match levels {
        ..=LEVELS => Ok(text),
        _ => Err(format!(
            "the filter is {levels} levels deep; Milvus can be asked for {LEVELS}"
        )),
    }
}

fn parse(filter: &Filter) -> Result<Expression, String> {
    Ok(match filter {
        Filter::Eq { key, value } => one_of(key, std::slice::from_ref(value)),
        Filter::In { key, values } => one_of(key, values),
        Filter::Ne { key, value } => not(&one_of(key, std::slice::from_ref(value))),
        Filter::Nin { key, values } => not(&one_of(key, values)),
        Filter::Gt { key, value } => bound(key, value, greatest, ">")?,
        Filter::Gte { key, value } => bound(key, value, greatest, ">=")?,
        Filter::Lt { key, value } => bound(key, value, least, "<")?,
        Filter::Lte { key, value } => bound(key, value, least, "<=")?,
        Filter::And { filters } => joined(filters, "&&", ALL)?,
        Filter::Or { filters } => joined(filters, "||", NOTHING)?,
        Filter::Not { filter } => not(&parse(filter)?),
    })
}

fn single(text: impl Into<String>) -> Expression {
    Expression {
        text: text.into(),
        levels: 1,
    }
}

fn not(expression: &Expression) -> Expression {
    Expression {
        text: format!("(not {})", expression.text),
        levels: expression.levels + 1,
    }
}

/// The filters as a balanced tree: a chain would have a level for each.
fn joined(filters: &[Filter], sign: &str, of_none: &str) -> Result<Expression, String> {
    match filters {
        [] => Ok(single(of_none)),
        [one] => parse(one),
        _ => {
            let (left, right) = filters.split_at(filters.len() / 2);
            let left = joined(left, sign, of_none)?;
            let right = joined(right, sign, of_none)?;
            Ok(Expression {
                text: format!("({} {sign} {})", left.text, right.text),
                levels: left.levels.max(right.levels) + 1,
            })
        }
    }
}

fn one_of(key: &str, values: &[Scalar]) -> Expression {
    let terms = values.iter().filter_map(|value| term(key, value.borrow()));
    let names: Vec<String> = terms.map(|term| format!("\"{}\"", name(&term))).collect();
    match names.is_empty() {
        true => single(NOTHING),
        false => single(format!(
            "(json_contains_any(facts[\"terms\"], [{}]))",
            names.join(", ")
        )),
    }
}

/// Whether a field's least or greatest value is on the right side of another.
fn bound(
    key: &str,
    value: &Scalar,
    end: fn(&[u8]) -> String,
    sign: &str,
) -> Result<Expression, String> {
    let Some(term) = term(key, value.borrow()) else {
        return Ok(single(NOTHING));
    };
    let Some((field, value)) = split(&term) else {
        return Ok(single(NOTHING));
    };
    if value.len() > ORDERED_BYTES {
        return Err(format!(
            "the filter compares {key:?} with a text of {} bytes; in Milvus up to {ORDERED_BYTES} can be compared",
            value.len()
        ));
    }
    let (field, value) = (end(field), ordered(value));
    Ok(single(format!("(facts[\"{field}\"] {sign} \"{value}\")")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(filter: serde_json::Value) -> Result<String, String> {
        expression(&Filter::from_json(&filter).unwrap())
    }

    #[test]
    fn nothing_of_a_filter_stands_in_its_expression_as_it_came() {
        let text = "a\" || true || \"";
        let filter = of(json!({"type": "and", "filters": [
            {"type": "eq", "key": text, "value": text},
            {"type": "gt", "key": text, "value": text},
            {"type": "nin", "key": "x", "value": []},
        ]}))
        .unwrap();
        assert!(!filter.contains("true"), "{filter}");
        assert!(filter.ends_with("&& (not (sequence < 0))))"), "{filter}");
    }

    #[test]
    fn a_long_filter_is_a_flat_expression_and_a_deep_one_is_refused() {
        let one = json!({"type": "eq", "key": "k", "value": 1});
        let long = json!({"type": "or", "filters": vec![one.clone(); 255]});
        let long = parse(&Filter::from_json(&long).unwrap()).unwrap();
        assert_eq!(long.levels, 9);
        let nested = |levels| {
            (1..levels).fold(Filter::from_json(&one).unwrap(), |inner, _| Filter::Not {
                filter: Box::new(inner),
            })
        };
        assert!(expression(&nested(LEVELS)).is_ok());
        let refused = expression(&nested(LEVELS + 1)).unwrap_err();
        assert!(refused.contains("41 levels deep"), "{refused}");
    }

    #[test]
    fn a_bound_that_is_too_long_is_refused_by_name() {
        let refused = of(json!({"type": "gt", "key": "k", "value": "x".repeat(257)})).unwrap_err();
        assert!(
            refused.contains("\"k\"") && refused.contains("257 bytes"),
            "{refused}"
        );
    }
}
