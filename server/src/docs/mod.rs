//! The documentation at `/docs`: a page that reads the served OpenAPI document, embedded as it stands.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::get;

use crate::app::App;
use crate::errors::ApiError;
use crate::page::{File, HTML, SCRIPT, STYLE, file};

static INDEX: File = file!("index.html", HTML);
static FILES: [File; 4] = [
    file!("docs.css", STYLE),
    file!("docs.js", SCRIPT),
    file!("schema.js", SCRIPT),
    file!("text.js", SCRIPT),
];

/// The documentation and its files. Anybody may have them, as they may have the document.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/docs",
            get(|headers: HeaderMap| async move { INDEX.response(&headers) }),
        )
        .route("/docs/{file}", get(of_name))
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
            path: format!("/docs/{name}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::comes_from_here_only;

    #[test]
    fn nothing_comes_from_elsewhere_or_is_parsed_as_markup() {
        FILES.iter().chain([&INDEX]).for_each(comes_from_here_only);
    }
}
