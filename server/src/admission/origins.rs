//! What web pages may do through a browser on a server that asks for no keys.
//!
//! A browser sends a page's requests with all that its user may do, so a server on somebody's own machine would be
//! open to every page that this person visits. Reading and chatting are allowed to any page by default. To change
//! documents or to reload, a page must be the server's own or of an origin that the operator has named.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::admission::access::administers;
use crate::config::Config;
use crate::wire::errors::ApiError;

/// Whose pages may do what.
pub(crate) struct Origins {
    /// The origins that the operator has named.
    named: Vec<HeaderValue>,
    /// Whether requests need a key, which no page can have by accident.
    asks_for_keys: bool,
    /// Whether only this machine can connect, without a proxy between.
    only_this_machine: bool,
}

impl Origins {
    pub(crate) fn new(config: &Config) -> Self {
        let named = config.listen.cors_origins.iter();
        let named = named.filter(|origin| *origin != "*" && *origin != "none");
        Self {
            named: named.cloned().collect(),
            asks_for_keys: config.access.api_keys.is_some(),
            only_this_machine: config.listen.host.is_loopback()
                && config.proxies.trusted_proxies.is_empty(),
        }
    }

    fn check(
        &self,
        method: &Method,
        path: &str,
        host: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        if self.asks_for_keys {
            return Ok(());
        }
        // A page whose name was made to lead to this machine (DNS rebinding) is the server's own for a browser.
        if self.only_this_machine
            && let Some(host) = host
            && !self.is_of_this_machine(host)
        {
            return Err(ApiError::OtherHost(host.to_owned()));
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let own = || {
            let of_origin = origin.to_str().ok()?.split_once("://")?.1;
            Some(of_origin.eq_ignore_ascii_case(host?))
        };
        if !administers(method, path) || self.named.contains(origin) || own() == Some(true) {
            return Ok(());
        }
        let origin = String::from_utf8_lossy(origin.as_bytes()).into_owned();
        Err(ApiError::OriginNotAllowed(origin))
    }

    /// Whether a host is named by its address, as this machine, or as an origin that the operator has named.
    fn is_of_this_machine(&self, host: &str) -> bool {
        let name = host.parse::<Authority>();
        let name = name.as_ref().map_or(host, |authority| authority.host());
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let named = |origin: &HeaderValue| {
            let origin = origin.to_str().ok();
            let rest = origin.and_then(|origin| Some(origin.split_once("://")?.1));
            rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
        };
        address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || name.to_ascii_lowercase().ends_with(".localhost")
            || self.named.iter().any(named)
    }
}

/// Refuses what a page may not do.
pub(crate) async fn check(
    State(origins): State<std::sync::Arc<Origins>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str);
    let (method, path) = (request.method(), request.uri().path());
    origins.check(method, path, host.or(authority), request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn allowed(flags: &[&str], method: Method, path: &str, host: &str, origin: &str) -> bool {
        let arguments = ["onegen-server"].iter().chain(flags);
        let origins = Origins::new(&Config::try_parse_from(arguments).unwrap());
        let mut headers = HeaderMap::new();
        if !origin.is_empty() {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        origins.check(&method, path, Some(host), &headers).is_ok()
    }

    #[test]
    fn pages_of_other_origins_read_and_chat_and_change_nothing() {
        let (local, page) = ("localhost:8080", "https://example.org");
        let change = |flags: &[&str], origin| {
            let put = allowed(flags, Method::PUT, "/v1/documents", local, origin);
            let delete = allowed(flags, Method::DELETE, "/v1/documents/a", local, origin);
            let reload = allowed(flags, Method::POST, "/v1/admin/reload", local, origin);
            assert_eq!((put, delete), (reload, reload));
            put
        };
        assert!(!change(&[], page));
        assert!(!change(&[], "null"));
        assert!(!change(&[], "http://localhost:3000"));
        assert!(change(&[], ""));
        assert!(change(&[], "http://localhost:8080"));
        assert!(change(&["--cors-origins", page], page));
        assert!(change(&["--api-keys", "keys.toml"], page));
        for (method, path) in [
            (Method::GET, "/v1/documents/a"),
            (Method::POST, "/v1/chat/completions"),
            (Method::POST, "/v1/vector_stores/default/search"),
        ] {
            assert!(allowed(&[], method, path, local, page), "{path}");
        }
    }

    #[test]
    fn a_server_of_this_machine_is_asked_by_its_own_name() {
        let asked = |flags: &[&str], host| allowed(flags, Method::GET, "/v1/models", host, "");
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "a.localhost",
        ] {
            assert!(asked(&[], host), "{host}");
        }
        assert!(!asked(&[], "example.org"));
        assert!(!asked(&[], "localhost.example.org:8080"));
        assert!(asked(&["--host", "0.0.0.0"], "example.org"));
        assert!(asked(&["--trusted-proxies", "127.0.0.1"], "example.org"));
        assert!(asked(
            &["--cors-origins", "https://example.org"],
            "example.org"
        ));
        assert!(asked(&["--api-keys", "keys.toml"], "example.org"));
    }
}
