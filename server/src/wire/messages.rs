//! Converts messages of requests to the engine's messages.

use onegen_engine::Role as EngineRole;
use onegen_proto::{Content, Role};

use crate::wire::errors::ApiError;

/// The engine's role; `developer` becomes the system role.
pub(crate) fn role(role: Role) -> EngineRole {
    match role {
        Role::System | Role::Developer => EngineRole::System,
        Role::User => EngineRole::User,
        Role::Assistant => EngineRole::Assistant,
    }
}

/// The types of parts that are text in OpenAI's APIs.
const TEXTS: [&str; 3] = ["text", "input_text", "output_text"];

/// A message's text. `path` is its place in the request.
///
/// # Errors
/// [`ApiError::Unsupported`] names a part of another kind.
pub(crate) fn text(content: Content, path: &str) -> Result<String, ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let each = parts.into_iter().enumerate().map(|(at, part)| {
        let param = format!("{path}[{at}]");
        if !TEXTS.contains(&&*part.kind) {
            let kind = part.kind;
            return Err(ApiError::Unsupported {
                param: format!("{param}.type {kind:?}"),
            });
        }
        let missing = || ApiError::invalid(format!("{param}.text"), "is missing");
        part.text.ok_or_else(missing)
    });
    each.collect()
}
