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
    let known = SCHEMAS.entry(TypeId::of::<T>());
    let schemas = Arc::clone(&known.or_insert_with(|| {
        let mut by_name = Vec::new();
        T::schemas(&mut by_name);
        Arc::new(TypeSchemas {
            root: T::schema(),
            by_name: by_name.into_iter().collect(),
        })
    }));
    if !value.is_object() {
        return Err(ApiError::invalid("body", "expected a JSON object"));
    }
    schemas.check(value, &[&schemas.root], "")
}

impl TypeSchemas {
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
                        let path = match path {
                            "" => name.clone(),
                            path => format!("{path}.{name}"),
                        };
                        self.check(value, &of_field, &path)?;
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
