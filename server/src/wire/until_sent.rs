//! What lasts as long as a response takes to be sent.

use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use futures::StreamExt;

/// Keeps something until a stream has ended. What is not a stream has been answered.
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
