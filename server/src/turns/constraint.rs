//! What a client wants an answer to look like: which of its fields says so, and what it says.

use std::sync::Arc;

use onegen_engine::{Cancellation, Constraint, ConstraintError, Grammar};
use onegen_proto::{
    ChatCompletionRequest, ResponseFormat, ResponseText, StructuredOutputs, TextFormat,
};
use serde_json::{Value, json};

use crate::app::App;
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

/// A constraint and the field that it came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RequestedConstraint {
    pub(crate) field: &'static str,
    pub(crate) constraint: Constraint,
}

impl RequestedConstraint {
    /// What the request asks for, if anything.
    ///
    /// # Errors
    /// It asks for two things, or for one without saying which.
    pub(crate) fn from_chat_request(
        request: &ChatCompletionRequest,
    ) -> Result<Option<Self>, ApiError> {
        let format = request.response_format.as_ref();
        let format = format.map(from_format).transpose()?.flatten();
        let outputs = request.structured_outputs.as_ref();
        let outputs = outputs.map(from_outputs).transpose()?;
        match (format, outputs) {
            (Some(_), Some(_)) => Err(ApiError::invalid(
                "structured_outputs",
                "cannot go with response_format; send one of them",
            )),
            (format, outputs) => Ok(format.or(outputs)),
        }
    }

    /// What the text of a response must be, if anything.
    pub(crate) fn from_response_text(text: &ResponseText) -> Option<Self> {
        match text.format.as_ref()? {
            TextFormat::Text => None,
            TextFormat::JsonObject => Some(Self::any_object("text.format")),
            TextFormat::JsonSchema { schema, .. } => Some(Self::new(
                "text.format.schema",
                Constraint::JsonSchema(schema.clone()),
            )),
        }
    }

    fn new(field: &'static str, constraint: Constraint) -> Self {
        Self { field, constraint }
    }

    fn any_object(field: &'static str) -> Self {
        Self::new(field, Constraint::JsonSchema(json!({"type": "object"})))
    }

    /// Compiles it off the async threads, a few of all requests' at a time: a large one takes its time. It counts
    /// until the work ends, and if the client leaves, that is at the work's next step.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] names the field and says why it does not compile.
    pub(crate) async fn compile(&self, app: &Arc<App>) -> Result<Grammar, ApiError> {
        let tokens = app.engine.model().tokens().clone();
        let constraint = self.constraint.clone();
        // No semaphore of the server is ever closed, so this cannot fail.
        let permit = app.compiling.clone().acquire_owned().await;
        let cancellation = Cancellation::default();
        let _cancelled_with_request = CancelOnDrop(cancellation.clone());
        let compile = move || Grammar::compile_unless(&cancellation, permit, &constraint, &tokens);
        let compiled = blocking(compile).await?;
        compiled.map_err(|error| match error {
            ConstraintError::Tokens(_) => ApiError::Internal(error.to_string()),
            error => ApiError::invalid(self.field, error.to_string()),
        })
    }
}

/// Cancels work when the request that waits for it is dropped.
struct CancelOnDrop(Cancellation);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn from_format(format: &ResponseFormat) -> Result<Option<RequestedConstraint>, ApiError> {
    const SCHEMA: &str = "response_format.json_schema.schema";
    let constraint = match format {
        ResponseFormat::Text => return Ok(None),
        ResponseFormat::JsonObject => RequestedConstraint::any_object("response_format"),
        ResponseFormat::JsonSchema { json_schema } if json_schema.schema.is_null() => {
            return Err(ApiError::invalid(SCHEMA, "is missing"));
        }
        ResponseFormat::JsonSchema { json_schema } => {
            RequestedConstraint::new(SCHEMA, Constraint::JsonSchema(json_schema.schema.clone()))
        }
    };
    Ok(Some(constraint))
}

fn from_outputs(outputs: &StructuredOutputs) -> Result<RequestedConstraint, ApiError> {
    let StructuredOutputs {
        json,
        regex,
        choice,
        grammar,
    } = outputs.clone();
    let json = json.map(schema).transpose()?.map(Constraint::JsonSchema);
    let fields = [
        ("structured_outputs.json", json),
        ("structured_outputs.regex", regex.map(Constraint::Regex)),
        ("structured_outputs.choice", choice.map(Constraint::Choice)),
        ("structured_outputs.grammar", grammar.map(Constraint::Lark)),
    ];
    let mut constraints = fields
        .into_iter()
        .filter_map(|(field, constraint)| Some(RequestedConstraint::new(field, constraint?)));
    match (constraints.next(), constraints.next()) {
        (Some(constraint), None) => Ok(constraint),
        _ => Err(ApiError::invalid(
            "structured_outputs",
            "must hold exactly one of json, regex, choice and grammar",
        )),
    }
}

/// A schema, or the one that a text holds.
fn schema(json: Value) -> Result<Value, ApiError> {
    match json {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            ApiError::invalid("structured_outputs.json", format!("is no JSON: {error}"))
        }),
        schema => Ok(schema),
    }
}
