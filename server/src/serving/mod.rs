//! Serves the API: the router, the OpenAPI document, TLS, the page and the documentation.

mod connections;
mod docs;
mod early_answers;
mod loading;
mod openapi;
mod page;
mod places;
mod router;
mod serve;
mod static_files;
mod tls;

pub use loading::while_loading;
pub use openapi::openapi;
pub use serve::serve;
