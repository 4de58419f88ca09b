//! The documentation at `/docs`: a page that reads the served OpenAPI document, embedded as it stands.

use std::sync::Arc;

use axum::Router;

use crate::app::App;
use crate::embedded::{self, File, HTML, SCRIPT, STYLE, file};

static INDEX: File = file!("index.html", HTML);
static FILES: [File; 4] = [
    file!("docs.css", STYLE),
    file!("docs.js", SCRIPT),
    file!("schema.js", SCRIPT),
    file!("text.js", SCRIPT),
];

/// The documentation and its files. Anybody may have them, as they may have the document.
pub(crate) fn routes() -> Router<Arc<App>> {
    embedded::routes(&INDEX, "/docs", &FILES, "/docs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::tests::comes_from_here_only;

    #[test]
    fn nothing_comes_from_elsewhere_or_is_parsed_as_markup() {
        FILES.iter().chain([&INDEX]).for_each(comes_from_here_only);
    }
}
