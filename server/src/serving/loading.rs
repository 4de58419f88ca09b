//! What is answered while the model is loaded and collections are indexed, which can take long: that the server
//! lives, and that it does not take requests yet.

use std::io;
use std::sync::Arc;

use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use onegen_proto::{Health, HealthStatus, Readiness};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::certificate::Certificate;
use crate::collections::IndexingProgress;
use crate::config::ListenConfig;
use crate::serving::connections::serve_connections;
use crate::serving::tls::TlsListener;
use crate::wire::errors::ApiError;

/// Answers probes on a listener until the work is done, with how far the indexing is. Returns the listener and what the work returned.
///
/// # Errors
/// The listener cannot be shared with the server that serves afterwards.
pub async fn while_loading<T>(
    listener: TcpListener,
    config: &ListenConfig,
    model: String,
    progress: Arc<IndexingProgress>,
    work: impl Future<Output = T>,
) -> io::Result<(TcpListener, T)> {
    let kept = listener.into_std()?;
    let listener = TcpListener::from_std(kept.try_clone()?)?;
    let (done, stop) = oneshot::channel::<()>();
    let answer =
        move |method: Method, uri: Uri| async move { answer(&method, &uri, model, &progress) };
    let router = Router::new().fallback(answer);
    let stop = async {
        // Nothing is ever sent: this waits for the work's end.
        let _ = stop.await;
    };
    let serving = async {
        match Certificate::open(config) {
            Ok(None) => {
                let mut listener = listener;
                serve_connections(&mut listener, router, stop).await;
            }
            Ok(Some(certificate)) => {
                let mut listener = TlsListener::new(listener, certificate)?;
                serve_connections(&mut listener, router, stop).await;
            }
            // The work says what is wrong with it.
            Err(_) => {}
        }
        io::Result::Ok(())
    };
    let work = async {
        let result = work.await;
        drop(done);
        result
    };
    let (served, result) = tokio::join!(serving, work);
    served?;
    Ok((TcpListener::from_std(kept)?, result))
}

fn answer(method: &Method, uri: &Uri, model: String, progress: &IndexingProgress) -> Response {
    let reads = method == Method::GET || method == Method::HEAD;
    match uri.path() {
        "/healthz" if reads => {
            let status = HealthStatus::Ok;
            Json(Health { status }).into_response()
        }
        "/readyz" if reads => {
            let readiness = Readiness {
                status: HealthStatus::Loading,
                model,
                passages: 0,
                collections: Vec::new(),
                indexing: progress.now(),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(readiness)).into_response()
        }
        _ => ApiError::Loading.into_response(),
    }
}
