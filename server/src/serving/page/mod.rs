//! The page at `/`: a chat in plain HTML, CSS and JavaScript modules, embedded unchanged.
//!
//! It uses the API like any other client. It loads nothing from other servers, which the headers forbid.

use std::sync::Arc;

use axum::Router;

use crate::app::App;
use crate::serving::static_files::{self, File, HTML, SCRIPT, STYLE, file};

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

/// The routes of the page and its files. They need no key, because they contain no data of the
/// server.
pub(crate) fn routes() -> Router<Arc<App>> {
    static_files::routes(&INDEX, "/", &FILES, "/page")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serving::static_files::tests::comes_from_here_only;

    /// The texts in double quotes within a text.
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
}
