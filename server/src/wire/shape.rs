//! Checks a JSON value against the schema of its type in the OpenAPI document.
//!
//! serde differs from the document in two ways. It accepts an array in place of a struct, element by
//! element, and it refuses `3.0` where an integer is expected, although `3.0` and `3` are the same
//! number in JSON. The schema has every field of every type, so no fields need to be listed here.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use dashmap::DashMap;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};

use crate::wire::errors::ApiError;

/// The schemas of a type and of all types within it, computed once.
static SCHEMAS: LazyLock<DashMap<TypeId, Arc<TypeSchemas>>> = LazyLock::new(DashMap::new);

struct TypeSchemas {
    root: RefOr<Schema>,
    by_name: HashMap<String, RefOr<Schema>>,
}

/// Converts numbers such as `3.0` to integers where `T` has integers, and refuses other values where `T`
/// has an object.
///
/// # Errors
/// [`ApiError::Invalid`] names the field that must be an object.
pub(crate) fn conform<T: ToSchema + 'static>(value: &mut Value) -> Result<(), ApiError> {
    let schemas = TypeSchemas::of::<T>();
    if !value.is_object() {
        return Err(ApiError::invalid("body", "expected a JSON object"));
    }
    schemas.check(value, &[&schemas.root], "")
}

/// The first fault of a value behind `path`, which `T` has there for one of several types: the type of a
/// value, a field that is missing, a word that is not among those that may stand there. `None` if the schema
/// finds none.
pub(crate) fn fault_within<T: ToSchema + 'static>(value: &Value, path: &str) -> Option<ApiError> {
    let schemas = TypeSchemas::of::<T>();
    let fault = schemas.fault(value, &[&schemas.root], "", "")?;
    let rest = fault.path.strip_prefix(path)?;
    let behind = !rest.is_empty() && (path.is_empty() || rest.starts_with(['.', '[']));
    behind.then(|| ApiError::invalid(fault.path.clone(), fault.message))
}

/// A value that fits no schema.
struct SchemaFault {
    path: String,
    message: String,
}

impl TypeSchemas {
    fn of<T: ToSchema + 'static>() -> Arc<Self> {
        let known = SCHEMAS.entry(TypeId::of::<T>());
        Arc::clone(&known.or_insert_with(|| {
            let mut by_name = Vec::new();
            T::schemas(&mut by_name);
            Arc::new(Self {
                root: T::schema(),
                by_name: by_name.into_iter().collect(),
            })
        }))
    }

    /// The first fault of the value of a field, which may be of one of several types. What has another type than all
    /// of them is named itself, else what is within it.
    fn fault(
        &self,
        value: &Value,
        alternatives: &[&RefOr<Schema>],
        name: &str,
        path: &str,
    ) -> Option<SchemaFault> {
        let mut kinds = Vec::new();
        for alternative in alternatives {
            self.resolve(alternative, &mut kinds);
        }
        let fault = |message: String| {
            let path = path.to_owned();
            Some(SchemaFault { path, message })
        };
        if value.is_null() || kinds.is_empty() || kinds.iter().any(|kind| types(kind).is_none()) {
            return None;
        }
        if !kinds.iter().any(|kind| takes(kind, value)) {
            return fault(format!("expected {}", expected_types(&kinds)));
        }
        match value {
            Value::Object(fields) => {
                let objects = kinds.iter().filter_map(|kind| match kind {
                    Schema::Object(object) => Some(&object.required),
                    _ => None,
                });
                let needed: Vec<_> = objects.collect();
                let lacks = |field: &&String| !fields.contains_key(*field);
                if let [only] = needed.as_slice() {
                    if let Some(field) = only.iter().find(lacks) {
                        return Some(SchemaFault {
                            path: join(path, field),
                            message: format!("missing field `{field}`"),
                        });
                    }
                } else if needed.iter().all(|fields| fields.iter().any(|f| lacks(&f))) {
                    let each = needed.iter().map(|fields| fields.join(" and "));
                    let each: Vec<_> = each.collect();
                    return fault(format!(
                        "expected an object with {}",
                        each.join(", or with ")
                    ));
                }
                fields.iter().find_map(|(name, value)| {
                    let of_field: Vec<_> = kinds.iter().filter_map(|k| field(k, name)).collect();
                    self.fault(value, &of_field, name, &join(path, name))
                })
            }
            Value::Array(items) => {
                let of_items: Vec<_> = kinds.iter().filter_map(|kind| items_of(kind)).collect();
                let mut items = items.iter().enumerate();
                items.find_map(|(at, item)| {
                    self.fault(item, &of_items, name, &format!("{path}[{at}]"))
                })
            }
            // The types of items are open: what an item of an unknown type is, is said where items are read.
            Value::String(_) if name == "type" => None,
            Value::String(word) => {
                let words = words(&kinds)?;
                let known = words.contains(&word.as_str());
                (!known).then(|| fault(format!("expected one of {words:?}")))?
            }
            _ => None,
        }
    }

    /// Checks a value against alternatives. `path` is the value's place in the body.
    fn check(
        &self,
        value: &mut Value,
        alternatives: &[&RefOr<Schema>],
        path: &str,
    ) -> Result<(), ApiError> {
        let mut kinds = Vec::new();
        for alternative in alternatives {
            self.resolve(alternative, &mut kinds);
        }
        match value {
            Value::Null => Ok(()),
            Value::Object(fields) => {
                for (name, value) in fields {
                    let of_field: Vec<_> = kinds.iter().filter_map(|k| field(k, name)).collect();
                    if !of_field.is_empty() {
                        self.check(value, &of_field, &join(path, name))?;
                    }
                }
                Ok(())
            }
            Value::Array(items) => {
                let of_items: Vec<_> = kinds.iter().filter_map(|kind| items_of(kind)).collect();
                if of_items.is_empty() && kinds.iter().any(|kind| is(kind, &Type::Object)) {
                    return Err(ApiError::invalid(path, "expected a JSON object"));
                }
                if of_items.is_empty() {
                    return Ok(());
                }
                for (at, item) in items.iter_mut().enumerate() {
                    self.check(item, &of_items, &format!("{path}[{at}]"))?;
                }
                Ok(())
            }
            Value::Number(number) if number.is_f64() => {
                let integer = kinds.iter().any(|kind| is(kind, &Type::Integer))
                    && !kinds.iter().any(|kind| is(kind, &Type::Number));
                if let Some(whole) = number.as_f64().filter(|_| integer).and_then(whole) {
                    *value = whole;
                }
                Ok(())
            }
            // Optional objects are left to serde, because some of them may also be a text.
            _ if !kinds.is_empty() && kinds.iter().all(|kind| is_only_object(kind)) => {
                Err(ApiError::invalid(path, "expected a JSON object"))
            }
            _ => Ok(()),
        }
    }

    /// Adds the objects, arrays and plain values that a schema stands for.
    fn resolve<'s>(&'s self, schema: &'s RefOr<Schema>, kinds: &mut Vec<&'s Schema>) {
        let schema = match schema {
            RefOr::T(schema) => schema,
            RefOr::Ref(Ref { ref_location, .. }) => {
                let name = ref_location.rsplit('/').next().unwrap_or_default();
                if let Some(schema) = self.by_name.get(name) {
                    self.resolve(schema, kinds);
                }
                return;
            }
        };
        let items = match schema {
            Schema::OneOf(one_of) => &one_of.items,
            Schema::AllOf(all_of) => &all_of.items,
            Schema::AnyOf(any_of) => &any_of.items,
            other => {
                kinds.push(other);
                return;
            }
        };
        for item in items {
            self.resolve(item, kinds);
        }
    }
}

/// The path of an object's field.
fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// Whether a schema has values of this JSON type.
fn takes(kind: &Schema, value: &Value) -> bool {
    let either = |types: [Type; 2]| types.iter().any(|one| is(kind, one));
    match value {
        Value::Null => true,
        Value::Bool(_) => is(kind, &Type::Boolean),
        Value::Number(_) => either([Type::Number, Type::Integer]),
        Value::String(_) => is(kind, &Type::String),
        Value::Array(_) => is(kind, &Type::Array),
        Value::Object(_) => is(kind, &Type::Object),
    }
}

/// The types of schemas in words.
fn expected_types(kinds: &[&Schema]) -> String {
    let mut words = Vec::new();
    for one in kinds.iter().filter_map(|kind| types(kind)).flatten() {
        let word = match one {
            Type::Object => "a JSON object",
            Type::Array => "an array",
            Type::String => "a string",
            Type::Integer | Type::Number => "a number",
            Type::Boolean => "true or false",
            Type::Null => continue,
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

/// The only words that a text may be, if each schema of texts lists some.
fn words<'s>(kinds: &[&'s Schema]) -> Option<Vec<&'s str>> {
    let mut words = Vec::new();
    for kind in kinds.iter().filter(|kind| is(kind, &Type::String)) {
        let Schema::Object(object) = kind else {
            return None;
        };
        words.extend(
            object
                .enum_values
                .as_ref()?
                .iter()
                .filter_map(Value::as_str),
        );
    }
    Some(words)
}

/// The schema of an object's field.
fn field<'s>(kind: &'s Schema, name: &str) -> Option<&'s RefOr<Schema>> {
    let Schema::Object(object) = kind else {
        return None;
    };
    object
        .properties
        .get(name)
        .or_else(|| match object.additional_properties.as_deref()? {
            AdditionalProperties::RefOr(schema) => Some(schema),
            AdditionalProperties::FreeForm(_) => None,
        })
}

/// The schema of an array's items.
fn items_of(kind: &Schema) -> Option<&RefOr<Schema>> {
    match kind {
        Schema::Array(array) => match &array.items {
            ArrayItems::RefOrSchema(schema) => Some(schema),
            ArrayItems::False => None,
        },
        _ => None,
    }
}

fn is(kind: &Schema, wanted: &Type) -> bool {
    types(kind).is_some_and(|types| types.contains(wanted))
}

fn is_only_object(kind: &Schema) -> bool {
    matches!(types(kind), Some([Type::Object]))
}

/// The JSON types that a schema names; `None` where it takes any value.
fn types(kind: &Schema) -> Option<&[Type]> {
    let schema_type = match kind {
        Schema::Object(object) => &object.schema_type,
        Schema::Array(array) => &array.schema_type,
        _ => return None,
    };
    match schema_type {
        SchemaType::Type(one) => Some(std::slice::from_ref(one)),
        SchemaType::Array(several) => Some(several),
        SchemaType::AnyValue => None,
    }
}

/// A number without a fraction as an integer, if an integer type can hold it. The ends of the ranges are
/// excluded, because other numbers may have been rounded to them.
fn whole(float: f64) -> Option<Value> {
    if float.fract() != 0.0 {
        None
    } else if (0.0..18_446_744_073_709_551_616.0).contains(&float) {
        Some((float as u64).into())
    } else if float < 0.0 && float > -9_223_372_036_854_775_808.0 {
        Some((float as i64).into())
    } else {
        None
    }
}
