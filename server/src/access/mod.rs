//! Who may ask for what. One table says which scope a path needs; a layer before all routes keeps it.

mod caller;
mod keys;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Span;

use crate::app::App;
use crate::config::AccessConfig;
use crate::errors::ApiError;

pub use caller::Scope;
pub(crate) use caller::{Caller, Owner, Validity};
use keys::ApiKeys;
pub use keys::{KeyFileError, NewKey};

/// What a request needs to be let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Of any scope.
    AnyKey,
    Key(Scope),
    /// Of one of these.
    Either(Scope, Scope),
}

/// Which requests for a path a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// Only those that change nothing.
    Read,
    Do,
}

/// What paths need, by their first segments; the first line that fits counts. So a new route under
/// `/v1` is for administrators until somebody gives it a line.
///
/// Who chats is shown passages anyway, so reading and searching them needs nothing more.
const NEEDS: &[(To, &str, Needs)] = &[
    (To::Do, "/v1/chat", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/completions", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/responses", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/conversations", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/stream", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/embeddings", Needs::Key(Scope::Chat)),
    (To::Do, "/v1/entities", Needs::Key(Scope::Chat)),
    (To::Read, "/v1/documents", CHAT_OR_DOCUMENTS),
    (To::Do, "/v1/documents", Needs::Key(Scope::Documents)),
    (To::Do, "/v1/vector_stores", CHAT_OR_DOCUMENTS),
    (To::Do, "/v1/models", Needs::AnyKey),
    (To::Do, "/v1", Needs::Key(Scope::Admin)),
    (To::Do, "/metrics", Needs::Key(Scope::Admin)),
];

const CHAT_OR_DOCUMENTS: Needs = Needs::Either(Scope::Chat, Scope::Documents);

fn needs(method: &Method, path: &str) -> Needs {
    let below = |prefix: &str| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let reads = method == Method::GET || method == Method::HEAD;
    let fits = |to: To, prefix: &str| (reads || to == To::Do) && below(prefix);
    match NEEDS.iter().find(|(to, prefix, _)| fits(*to, prefix)) {
        Some((_, _, needs)) => *needs,
        // The page, the documentation, the probes: nothing that tells of anybody.
        None if reads => Needs::Nothing,
        None => Needs::Key(Scope::Admin),
    }
}

/// Whether a request is counted against its client's limits: what asks for the model or for documents.
/// Going on with a lost stream is not, since its turn is counted already.
pub(crate) fn is_counted(method: &Method, path: &str) -> bool {
    let counted = matches!(
        needs(method, path),
        Needs::Key(Scope::Chat | Scope::Documents) | Needs::Either(..)
    );
    counted && path != "/v1/stream"
}

/// How requests for a path are refused before they reach it: statuses, and why.
pub(crate) fn refusals(
    method: &Method,
    path: &str,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let needs = needs(method, path);
    let counted = is_counted(method, path);
    [
        (
            needs != Needs::Nothing,
            "401",
            "The API key is missing or unknown",
        ),
        (
            !matches!(needs, Needs::Nothing | Needs::AnyKey),
            "403",
            "The API key may not do this",
        ),
        (counted, "429", "Too many requests"),
        (counted, "503", "The server is shutting down"),
    ]
    .into_iter()
    .filter_map(|(possible, status, why)| possible.then_some((status, why)))
}

/// The keys, where the server asks for any.
pub(crate) struct Access {
    file: Option<PathBuf>,
    keys: RwLock<Option<Arc<ApiKeys>>>,
    open_metrics: bool,
}

impl Access {
    /// # Errors
    /// The file of keys is not taken.
    pub(crate) fn open(config: &AccessConfig) -> Result<Self, KeyFileError> {
        let access = Self {
            file: config.api_keys.clone(),
            keys: RwLock::default(),
            open_metrics: config.open_metrics,
        };
        access.reload()?;
        Ok(access)
    }

    /// Reads the file again. Where that fails, the keys stay as they were. Turns of keys that are gone end.
    ///
    /// # Errors
    /// The file of keys is not taken.
    pub(crate) fn reload(&self) -> Result<(), KeyFileError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut keys = ApiKeys::read(file)?;
        tracing::info!(keys = keys.len(), file = %file.display(), "API keys are asked for");
        let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = current.as_deref() {
            keys.succeed(before);
        }
        *current = Some(Arc::new(keys));
        Ok(())
    }

    /// Whether the server asks for keys.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.file.is_some()
    }

    /// Who asks, if they may.
    fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let needs = match needs(method, path) {
            _ if path == "/metrics" && self.open_metrics => Needs::Nothing,
            needs => needs,
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let Some(keys) = keys.clone() else {
            return Ok(Caller::anybody());
        };
        if needs == Needs::Nothing {
            return Ok(Caller::nobody());
        }
        let key = bearer(headers).ok_or(ApiError::KeyMissing)?;
        let caller = keys.find(key).ok_or(ApiError::KeyUnknown)?;
        let may = |scope: &Scope| caller.scopes.contains(scope);
        match needs {
            Needs::Key(scope) if !may(&scope) => Err(ApiError::ScopeMissing { scope }),
            Needs::Either(one, other) if !may(&one) && !may(&other) => {
                Err(ApiError::ScopeMissing { scope: one })
            }
            _ => Ok(caller.clone()),
        }
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Lets a request through to its route, with who asks, or refuses it.
pub(crate) async fn admit(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let caller = app
        .access
        .admit(request.method(), path, request.headers())?;
    if let Some(name) = caller.owner.name() {
        Span::current().record("key", name.as_ref());
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_needs_what_its_first_segments_say() {
        let (get, post) = (&Method::GET, &Method::POST);
        for (method, path, expected) in [
            (post, "/v1/chat/completions", Needs::Key(Scope::Chat)),
            (
                get,
                "/v1/conversations/conv_1/items",
                Needs::Key(Scope::Chat),
            ),
            (post, "/v1/documents", Needs::Key(Scope::Documents)),
            (get, "/v1/documents/a", CHAT_OR_DOCUMENTS),
            (
                &Method::DELETE,
                "/v1/documents/a",
                Needs::Key(Scope::Documents),
            ),
            (post, "/v1/vector_stores/a/search", CHAT_OR_DOCUMENTS),
            (post, "/v1/embeddings", Needs::Key(Scope::Chat)),
            (get, "/v1/models", Needs::AnyKey),
            (get, "/v1/chatter", Needs::Key(Scope::Admin)),
            (get, "/v1/admin/reload", Needs::Key(Scope::Admin)),
            (get, "/metrics", Needs::Key(Scope::Admin)),
            (get, "/healthz", Needs::Nothing),
            (get, "/", Needs::Nothing),
            (post, "/", Needs::Key(Scope::Admin)),
        ] {
            assert_eq!(needs(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn every_documented_path_but_the_open_ones_needs_a_key() {
        let document = crate::openapi::openapi();
        for path in document["paths"].as_object().unwrap().keys() {
            let open = needs(&Method::GET, path) == Needs::Nothing;
            assert_eq!(
                open,
                ["/healthz", "/readyz"].contains(&path.as_str()),
                "{path}"
            );
        }
    }
}
