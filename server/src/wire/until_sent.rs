//! Keeps a value alive until a response is sent.

use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use futures::StreamExt;

/// Keeps `kept` until a streamed response has ended. A response that is not a stream is complete
/// already, so `kept` is dropped.
pub(crate) fn until_sent(response: Response, kept: impl Send + 'static) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return response;
    }
    let (head, body) = response.into_parts();
    let body = body.into_data_stream().map(move |part| {
        let _kept = &kept;
        part
    });
    Response::from_parts(head, Body::from_stream(body))
}
