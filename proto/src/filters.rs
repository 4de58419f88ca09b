//! What the metadata of passages must be, as OpenAI's vector stores take it. The fields that hold a
//! filter are read by the index, whose errors say where in a filter the fault is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the metadata of passages must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(example = json!({"type": "eq", "key": "kind", "value": "country"}))]
pub enum MetadataFilter {
    /// A value is, or is not, another.
    Equality(EqualityFilter),
    /// A value comes before or after another.
    Order(OrderFilter),
    /// A value is, or is not, one of several.
    Membership(MembershipFilter),
    /// All of several filters, or one of them.
    #[schema(no_recursion)]
    Combination(CombinedFilter),
    /// What another filter is not.
    #[schema(no_recursion)]
    Negation(NegatedFilter),
}

/// A value is, or is not, another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EqualityFilter {
    /// Which of both.
    #[serde(rename = "type")]
    pub kind: EqualityType,
    /// The field of the metadata; `a.b` names a field within a field.
    #[schema(pattern = "^[^$]")]
    pub key: String,
    /// What it is compared with.
    pub value: FilterValue,
}

/// A value comes before or after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderFilter {
    /// How.
    #[serde(rename = "type")]
    pub kind: OrderType,
    /// The field of the metadata; `a.b` names a field within a field.
    #[schema(pattern = "^[^$]")]
    pub key: String,
    /// What it is compared with.
    pub value: FilterBound,
}

/// A value is, or is not, one of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembershipFilter {
    /// Which of both.
    #[serde(rename = "type")]
    pub kind: MembershipType,
    /// The field of the metadata; `a.b` names a field within a field.
    #[schema(pattern = "^[^$]")]
    pub key: String,
    /// The values, at most 10,000 in all of a filter.
    pub value: Vec<FilterValue>,
}

/// All of several filters, or one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CombinedFilter {
    /// Which of both.
    #[serde(rename = "type")]
    pub kind: CombinationType,
    /// The filters. A filter holds at most 256 on at most 16 levels.
    #[schema(no_recursion)]
    pub filters: Vec<MetadataFilter>,
}

/// What another filter is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NegatedFilter {
    /// Always `not`.
    #[serde(rename = "type")]
    pub kind: NegationType,
    /// The other filter.
    #[schema(no_recursion)]
    pub filter: Box<MetadataFilter>,
}

/// What metadata are compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum FilterValue {
    Text(String),
    Number(f64),
    Flag(bool),
}

/// What metadata are ordered by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum FilterBound {
    Text(String),
    Number(f64),
}

/// Equal or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's and say it all")]
pub enum EqualityType {
    Eq,
    Ne,
}

/// Above or below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's and say it all")]
pub enum OrderType {
    Gt,
    Gte,
    Lt,
    Lte,
}

/// Among them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's and say it all")]
pub enum MembershipType {
    In,
    Nin,
}

/// All or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are OpenAI's and say it all")]
pub enum CombinationType {
    And,
    Or,
}

/// Not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the name says it all")]
pub enum NegationType {
    Not,
}
