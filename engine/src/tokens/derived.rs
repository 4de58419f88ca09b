//! Tables that other modules compute from a tokenizer, each only once.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// One table of each type. A module that needs a table keeps it here, with the tokens that it belongs
/// to, and this module need not know the table's type.
#[derive(Default)]
pub(super) struct DerivedTables {
    tables: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl DerivedTables {
    /// The table of this type. `make` computes it at the first call, and must not ask for another
    /// table.
    pub(super) fn get<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let held = tables.get(&TypeId::of::<T>()).cloned();
        if let Some(table) = held.and_then(|table| table.downcast().ok()) {
            return table;
        }
        let table = Arc::new(make());
        tables.insert(TypeId::of::<T>(), table.clone());
        table
    }
}

impl fmt::Debug for DerivedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}
