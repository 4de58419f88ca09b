//! The page at `/`: a chat in plain HTML, CSS and JavaScript modules, embedded as they stand.
//!
//! It speaks to the API as any client does. Nothing is loaded from elsewhere, and the headers forbid it.

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
use crate::errors::ApiError;

/// Scripts and styles from here only and none in the markup; no markup made of strings by scripts; in
/// nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const STYLE: &str = "text/css; charset=utf-8";
pub(crate) const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page, or of the documentation.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) content: &'static str,
    pub(crate) etag: LazyLock<String>,
}

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        $crate::page::File {
            name: $name,
            content_type: $content_type,
            content: include_str!($name),
            etag: std::sync::LazyLock::new(|| $crate::page::etag(include_str!($name))),
        }
    };
}
pub(crate) use file;

static INDEX: File = file!("index.html", HTML);
static FILES: [File; 24] = [
    file!("answer.css", STYLE),
    file!("api.js", SCRIPT),
    file!("chat.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("drawing.js", SCRIPT),
    file!("export.js", SCRIPT),
    file!("icon.svg", "image/svg+xml"),
    file!("lezer-markdown.js", SCRIPT),
    file!("links.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("markdown.js", SCRIPT),
    file!("page.css", STYLE),
    file!("passages.js", SCRIPT),
    file!("receipt.js", SCRIPT),
    file!("run.js", SCRIPT),
    file!("scroll.js", SCRIPT),
    file!("sentences.js", SCRIPT),
    file!("served.js", SCRIPT),
    file!("settings.js", SCRIPT),
    file!("side.js", SCRIPT),
    file!("store.js", SCRIPT),
    file!("stream.js", SCRIPT),
    file!("theme.js", SCRIPT),
    file!("turn.js", SCRIPT),
];

/// The page and its files. Anybody may have them: they hold nothing of the server's.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/",
            get(|headers: HeaderMap| async move { INDEX.response(&headers) }),
        )
        .route("/page/{file}", get(of_name))
}

async fn of_name(
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => Ok(file.response(&headers)),
        None => Err(ApiError::RouteNotFound {
            method: method.to_string(),
            path: format!("/page/{name}"),
        }),
    }
}

pub(crate) fn etag(content: &str) -> String {
    format!("\"{}\"", &blake3::hash(content.as_bytes()).to_hex()[..32])
}

impl File {
    /// The file, or that the browser has it already: it asks each time, so that a new server's page is
    /// never mixed with an old one's.
    pub(crate) fn response(&self, request: &HeaderMap) -> Response {
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
        match known.any(|value| value.contains(self.etag.as_str())) {
            true => (StatusCode::NOT_MODIFIED, headers).into_response(),
            false => (headers, self.content).into_response(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a text names in double quotes.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('"').skip(1).step_by(2)
    }

    #[test]
    fn every_file_that_the_page_names_is_embedded_and_every_embedded_one_is_named() {
        let mut named: Vec<&str> = quoted(INDEX.content)
            .filter_map(|name| name.strip_prefix("page/"))
            .collect();
        for script in FILES.iter().filter(|file| file.content_type == SCRIPT) {
            let imports = script
                .content
                .lines()
                .filter(|line| line.starts_with("import "));
            named.extend(
                imports
                    .flat_map(quoted)
                    .filter_map(|name| name.strip_prefix("./")),
            );
        }
        for name in &named {
            assert!(FILES.iter().any(|file| file.name == *name), "{name}");
        }
        for file in &FILES {
            assert!(named.contains(&file.name), "{}", file.name);
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_or_is_parsed_as_markup() {
        FILES.iter().chain([&INDEX]).for_each(comes_from_here_only);
    }

    /// That a file loads nothing from elsewhere, and has nothing parsed as markup.
    pub(crate) fn comes_from_here_only(file: &File) {
        // A namespace, a beginning of links that somebody may follow, and a comment.
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
