//! The documentation at `/docs`: a page that reads the served OpenAPI document, embedded as it stands.
//!
//! It is written by hand, since Swagger UI, Redoc and Scalar are megabytes of scripts that set styles
//! and markup from strings, which the policy of these pages forbids.

use std::sync::Arc;

use axum::Router;

use crate::app::App;
use crate::serving::static_files::{self, File, HTML, SCRIPT, STYLE, file};

static INDEX: File = file!("index.html", HTML);
static FILES: [File; 4] = [
    file!("docs.css", STYLE),
    file!("docs.js", SCRIPT),
    file!("schema.js", SCRIPT),
    file!("text.js", SCRIPT),
];

/// The documentation and its files. Anybody may have them, as they may have the document.
pub(crate) fn routes() -> Router<Arc<App>> {
    static_files::routes(&INDEX, "/docs", &FILES, "/docs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::static_files::tests::comes_from_here_only;

    #[test]
    fn nothing_comes_from_elsewhere_or_is_parsed_as_markup() {
        FILES.iter().chain([&INDEX]).for_each(comes_from_here_only);
    }
}
