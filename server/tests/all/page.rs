//! The page's files over HTTP. What they do in a browser is tested in `page/`.
#![allow(clippy::unwrap_used)]

use crate::common::{Files, envelope};
use reqwest::StatusCode;
use reqwest::header::IF_NONE_MATCH;

#[tokio::test]
async fn the_page_comes_with_a_policy_that_allows_its_own_files_only() {
    let files = Files::new();
    let server = files.serve().await;
    let page = server.get("/").await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    let rules: Vec<&str> = policy.split("; ").collect();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(rules.contains(&rule), "{rule} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.text().await.unwrap().contains("page/main.js"));
}

#[tokio::test]
async fn a_browser_asks_each_time_and_is_told_what_it_has_already() {
    let files = Files::new();
    let server = files.serve().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/page.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let first = server.get(path).await;
        assert_eq!(first.headers()["content-type"], content_type);
        assert_eq!(first.headers()["cache-control"], "no-cache");
        assert_eq!(first.headers()["x-content-type-options"], "nosniff");
        let etag = first.headers()["etag"].clone();
        let url = format!("{}{path}", server.url);
        let again = server.http.get(&url).header(IF_NONE_MATCH, &etag);
        let again = again.send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(again.headers()["etag"], etag);
        assert_eq!(again.bytes().await.unwrap().len(), 0);
        let other = server.http.get(&url).header(IF_NONE_MATCH, "\"older\"");
        assert_eq!(other.send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_file_that_the_page_does_not_have_is_not_found() {
    let files = Files::new();
    let server = files.serve().await;
    for path in [
        "/page/nothing.js",
        "/page/mod.rs",
        "/page/..%2Fmain.rs",
        "/page/",
    ] {
        let missing = server.get(path).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND, "{path}");
        let error = envelope(missing.json().await.unwrap());
        assert_eq!(error["code"], "route_not_found");
    }
}
