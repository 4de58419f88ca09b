//! Access control. One table says which scope a path needs; a layer before all routes enforces it.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use tracing::Span;

use crate::admission::caller::{Caller, Scope};
use crate::admission::keys::{ApiKeys, KeyFileError};
use crate::config::AccessConfig;
use crate::wire::errors::ApiError;

/// The key that a request must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requirement {
    Nothing,
    /// A key of any scope.
    AnyKey,
    /// A key with this scope.
    Key(Scope),
    /// A key with one of these scopes.
    Either(Scope, Scope),
}

/// The methods to which a line of the table applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Methods {
    /// Methods that change nothing.
    Read,
    All,
}

/// What paths require, by their first segments. The first matching line counts. A new route under
/// `/v1` has no line and is therefore for administrators until it gets one.
///
/// A client that may chat sees passages anyway, so reading and searching them needs no other scope.
const REQUIREMENTS: &[(Methods, &str, Requirement)] = &[
    (Methods::All, "/v1/chat", Requirement::Key(Scope::Chat)),
    (
        Methods::All,
        "/v1/completions",
        Requirement::Key(Scope::Chat),
    ),
    (Methods::All, "/v1/responses", Requirement::Key(Scope::Chat)),
    (
        Methods::All,
        "/v1/conversations",
        Requirement::Key(Scope::Chat),
    ),
    (Methods::All, "/v1/stream", Requirement::Key(Scope::Chat)),
    (
        Methods::All,
        "/v1/embeddings",
        Requirement::Key(Scope::Chat),
    ),
    (Methods::All, "/v1/entities", Requirement::Key(Scope::Chat)),
    (Methods::Read, "/v1/documents", CHAT_OR_DOCUMENTS),
    (
        Methods::All,
        "/v1/documents",
        Requirement::Key(Scope::Documents),
    ),
    (Methods::All, "/v1/vector_stores", CHAT_OR_DOCUMENTS),
    (Methods::All, "/v1/models", Requirement::AnyKey),
    (Methods::All, "/v1", Requirement::Key(Scope::Admin)),
    (Methods::All, "/metrics", Requirement::Key(Scope::Admin)),
];

const CHAT_OR_DOCUMENTS: Requirement = Requirement::Either(Scope::Chat, Scope::Documents);

fn requirement(method: &Method, path: &str) -> Requirement {
    let below = |prefix: &str| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let reads = method == Method::GET || method == Method::HEAD;
    let fits = |methods: Methods, prefix: &str| (reads || methods == Methods::All) && below(prefix);
    match REQUIREMENTS
        .iter()
        .find(|(methods, prefix, _)| fits(*methods, prefix))
    {
        Some((_, _, required)) => *required,
        // The page, the documentation and the probes contain no private data.
        None if reads => Requirement::Nothing,
        None => Requirement::Key(Scope::Admin),
    }
}

/// Whether a request needs no key, even if the server requires keys.
#[cfg(test)]
pub(crate) fn is_open(method: &Method, path: &str) -> bool {
    requirement(method, path) == Requirement::Nothing
}

/// Whether a request changes what all clients share: documents, and the server itself.
pub(crate) fn administers(method: &Method, path: &str) -> bool {
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    let required = requirement(method, path);
    let shared = [Scope::Documents, Scope::Admin].map(Requirement::Key);
    !reads && shared.contains(&required)
}

/// Whether a request counts against its client's limits. Requests for the model or for documents do.
/// Resuming a lost stream does not, because its turn was counted already.
pub(crate) fn is_counted(method: &Method, path: &str) -> bool {
    let counted = matches!(
        requirement(method, path),
        Requirement::Key(Scope::Chat | Scope::Documents) | Requirement::Either(..)
    );
    counted && path != "/v1/stream"
}

/// The refusals that a request for a path can get before it reaches its route: statuses and
/// reasons.
pub(crate) fn refusals(
    method: &Method,
    path: &str,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let required = requirement(method, path);
    let counted = is_counted(method, path);
    [
        (
            required != Requirement::Nothing,
            "401",
            "The API key is missing or unknown",
        ),
        (
            !matches!(required, Requirement::Nothing | Requirement::AnyKey),
            "403",
            "The API key may not do this",
        ),
        (counted, "429", "Too many requests"),
        (
            counted,
            "503",
            "The server is shutting down, or a database does not answer",
        ),
    ]
    .into_iter()
    .filter_map(|(possible, status, why)| possible.then_some((status, why)))
}

/// The keys, if the server requires keys.
pub(crate) struct Access {
    file: Option<PathBuf>,
    keys: ArcSwapOption<ApiKeys>,
    /// Held while the file is read again, so that two reloads at once cannot lose keys that one
    /// passes on to the other.
    reloading: Mutex<()>,
    open_metrics: bool,
}

impl Access {
    /// # Errors
    /// The file of keys is invalid.
    pub(crate) fn open(config: &AccessConfig) -> Result<Self, KeyFileError> {
        let access = Self {
            file: config.api_keys.clone(),
            keys: ArcSwapOption::empty(),
            reloading: Mutex::new(()),
            open_metrics: config.open_metrics,
        };
        access.reload()?;
        Ok(access)
    }

    /// Reads the file again. If that fails, the keys stay as they were. Turns of removed keys are stopped.
    ///
    /// # Errors
    /// The file of keys is invalid.
    pub(crate) fn reload(&self) -> Result<(), KeyFileError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut keys = ApiKeys::read(file)?;
        tracing::info!(keys = keys.len(), file = %file.display(), "API keys are asked for");
        let _alone = self.reloading.lock();
        if let Some(before) = self.keys.load().as_deref() {
            keys.succeed(before);
        }
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }

    /// Whether the server requires keys.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.file.is_some()
    }

    /// The caller of a request, if it has the required key.
    fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let required = match requirement(method, path) {
            _ if path == "/metrics" && self.open_metrics => Requirement::Nothing,
            required => required,
        };
        let Some(keys) = self.keys.load_full() else {
            return Ok(Caller::anybody());
        };
        if required == Requirement::Nothing {
            return Ok(Caller::nobody());
        }
        let key = bearer(headers).ok_or(ApiError::KeyMissing)?;
        let caller = keys.find(key).ok_or(ApiError::KeyUnknown)?;
        let may = |scope: &Scope| caller.scopes.contains(scope);
        match required {
            Requirement::Key(scope) if !may(&scope) => Err(ApiError::ScopeMissing {
                scope: scope.name(),
            }),
            Requirement::Either(one, other) if !may(&one) && !may(&other) => {
                Err(ApiError::ScopeMissing { scope: one.name() })
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

/// Passes a request on to its route together with its caller, or refuses it.
pub(crate) async fn admit(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let caller = access.admit(request.method(), path, request.headers())?;
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
            (post, "/v1/chat/completions", Requirement::Key(Scope::Chat)),
            (
                get,
                "/v1/conversations/conv_1/items",
                Requirement::Key(Scope::Chat),
            ),
            (post, "/v1/documents", Requirement::Key(Scope::Documents)),
            (get, "/v1/documents/a", CHAT_OR_DOCUMENTS),
            (
                &Method::DELETE,
                "/v1/documents/a",
                Requirement::Key(Scope::Documents),
            ),
            (post, "/v1/vector_stores/a/search", CHAT_OR_DOCUMENTS),
            (post, "/v1/embeddings", Requirement::Key(Scope::Chat)),
            (get, "/v1/models", Requirement::AnyKey),
            (get, "/v1/chatter", Requirement::Key(Scope::Admin)),
            (get, "/v1/admin/reload", Requirement::Key(Scope::Admin)),
            (get, "/metrics", Requirement::Key(Scope::Admin)),
            (get, "/healthz", Requirement::Nothing),
            (get, "/", Requirement::Nothing),
            (post, "/", Requirement::Key(Scope::Admin)),
        ] {
            assert_eq!(requirement(method, path), expected, "{method} {path}");
        }
    }
}
