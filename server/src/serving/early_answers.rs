//! Answers that are ready before their request's body has arrived: refusals, mostly.
//!
//! A server that answers and closes while its client still sends makes the client's system drop the answer: the client
//! sees a broken connection, and a proxy takes the server for broken. So a part of the rest is read before the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

/// The most bytes that are read and dropped.
const MOST_BYTES: usize = 32 << 20;
/// How long that may take.
const MOST_TIME: Duration = Duration::from_secs(5);

/// A body that stays when whoever reads it drops it.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<Body>>);

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

/// Reads what is left of a request's body before its answer is sent.
pub(super) async fn read_before_early_answer(request: Request, next: Next) -> Response {
    // This client sends its body only if it is asked to, and a body that is there already needs no care.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = SharedBody(Arc::new(Mutex::new(body)));
    let request = Request::from_parts(parts, Body::new(body.clone()));
    let response = next.run(request).await;
    let status = response.status();
    // A body that did not arrive in time is not waited for again.
    if status != StatusCode::REQUEST_TIMEOUT
        && (status.is_client_error() || status.is_server_error())
    {
        let mut rest = Body::new(body).into_data_stream();
        let drop_rest = async {
            let mut bytes = 0;
            while let Some(Ok(part)) = rest.next().await
                && bytes < MOST_BYTES
            {
                bytes += part.len();
            }
        };
        // A client that is slower than this gets its answer as well as it can.
        let _ = timeout(MOST_TIME, drop_rest).await;
    }
    response
}
