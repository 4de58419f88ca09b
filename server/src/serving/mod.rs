//! Serves the API: the router, the OpenAPI document, TLS, the page and the documentation.

mod docs;
mod openapi;
mod page;
mod router;
mod serve;
mod static_files;
mod tls;

pub use openapi::openapi;
pub use serve::serve;
