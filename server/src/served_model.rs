//! The names by which requests can name the model.

use crate::traces::RequestTrace;
use crate::wire::errors::ApiError;

/// The names of the served model.
pub(crate) struct ServedModel {
    /// The name that the operator has chosen.
    pub(crate) name: String,
    /// The name of the model's directory; requests may use it too.
    pub(crate) directory_name: String,
    /// When it was loaded, in seconds since 1970.
    pub(crate) created: u64,
}

impl ServedModel {
    /// Fails for a name that is not this model's, and records that name in the request's trace.
    pub(crate) fn check(&self, name: &str) -> Result<(), ApiError> {
        if name == self.name || name == self.directory_name {
            if let Some(trace) = RequestTrace::current() {
                trace.set("gen_ai.request.model", name.to_owned());
            }
            return Ok(());
        }
        Err(ApiError::ModelNotFound {
            model: name.to_owned(),
            served: self.name.clone(),
        })
    }
}
