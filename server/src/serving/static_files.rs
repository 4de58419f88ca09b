//! The web pages that are embedded in the binary: their files, headers and routes.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::app::App;
use crate::wire::errors::ApiError;

/// Scripts and styles come only from this server, and none are inline. Scripts cannot make markup
/// from strings. The pages cannot be put into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const STYLE: &str = "text/css; charset=utf-8";
pub(crate) const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of a web page.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content: &'static str,
    pub(crate) etag: LazyLock<String>,
}

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        $crate::serving::static_files::File {
            name: $name,
            content_type: $content_type,
            content: include_str!($name),
            etag: std::sync::LazyLock::new(|| {
                $crate::serving::static_files::etag(include_str!($name))
            }),
        }
    };
}
pub(crate) use file;

/// A page at `path`, and the files that it is made of, by their names below `folder`.
pub(crate) fn routes(
    index: &'static File,
    path: &str,
    files: &'static [File],
    folder: &'static str,
) -> Router<Arc<App>> {
    let of_name = move |Path(name): Path<String>, method: Method, headers: HeaderMap| async move {
        match files.iter().find(|file| file.name == name) {
            Some(file) => Ok(file.response(&headers)),
            None => Err(ApiError::RouteNotFound {
                method: method.to_string(),
                path: format!("{folder}/{name}"),
            }),
        }
    };
    Router::new()
        .route(
            path,
            get(move |headers: HeaderMap| async move { index.response(&headers) }),
        )
        .route(&format!("{folder}/{{file}}"), get(of_name))
}

pub(crate) fn etag(content: &str) -> String {
    format!("\"{}\"", &blake3::hash(content.as_bytes()).to_hex()[..32])
}

impl File {
    /// The file, or 304 if the browser has it already. The browser asks each time, so that files of an
    /// old and a new server are never mixed.
    fn response(&self, request: &HeaderMap) -> Response {
        let headers = [
            (CONTENT_TYPE, self.content_type),
            (ETAG, self.etag.as_str()),
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
        ];
        let known = request.get_all(IF_NONE_MATCH).iter();
        let mut known = known.filter_map(|value| value.to_str().ok());
        if known.any(|value| value.contains(self.etag.as_str())) {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, self.content).into_response()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Checks that a file loads nothing from other servers and never parses a string as markup.
    pub(crate) fn comes_from_here_only(file: &File) {
        // A namespace, the beginning of links that users may follow, and a comment.
        let harmless = [
            "http://www.w3.org/2000/svg",
            "`https://${address}`",
            "(https://en.wikipedia.org/wiki/Tree_traversal#Pre-order,_NLR)",
        ];
        let strip = |content: String, harmless: &&str| content.replace(harmless, "");
        let elsewhere = harmless.iter().fold(file.content.to_owned(), strip);
        for forbidden in ["http://", "https://", "//cdn", "url(", "@import"] {
            assert!(!elsewhere.contains(forbidden), "{}: {forbidden}", file.name);
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
            " style=\"",
            " onclick=",
            " onload=",
        ] {
            assert!(
                !file.content.contains(forbidden),
                "{}: {forbidden}",
                file.name
            );
        }
    }
}
