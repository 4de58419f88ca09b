//! The documentation at `/docs`: a page that reads the served OpenAPI document. Its files are embedded
//! unchanged.
//!
//! It is written by hand, because Swagger UI, Redoc and Scalar are megabytes of scripts that set
//! styles and markup from strings, which the content security policy of these pages forbids.

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

/// The routes of the documentation and its files. They need no key, like the OpenAPI document.
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
