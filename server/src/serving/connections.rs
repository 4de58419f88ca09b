//! Connections: accepted, served with deadlines, and closed when the server stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::places::{Places, lasting};

/// How long a client may take for the head of a request, and how long a connection may have none. Longer than
/// nginx keeps an idle connection, so that it is nginx that closes it.
const HEAD: Duration = Duration::from_secs(75);
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How long connections may take to close once no request is in progress.
const CLOSING: Duration = Duration::from_secs(1);

/// Accepts connections until `stop` completes, and serves them. Then those without a request in progress are closed,
/// and the others have a moment to end.
pub(super) async fn serve_connections<L>(
    listener: &mut L,
    router: Router,
    stop: impl Future<Output = ()>,
) where
    L: Listener<Addr = SocketAddr>,
{
    let connections = GracefulShutdown::new();
    let builder = builder();
    let places = Places::new(most_connections());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let place = places.take().await;
            (place, listener.accept().await)
        };
        let (place, (io, peer)) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        let begun = Arc::new(AtomicBool::new(false));
        let service = {
            let (router, begun) = (router.clone(), begun.clone());
            let requests = place.requests();
            service_fn(move |request: Request<Incoming>| {
                begun.store(true, Ordering::Relaxed);
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                let (router, request_ends) = (router.clone(), requests());
                async move {
                    let response = router.oneshot(request).await?;
                    Ok::<_, Infallible>(lasting(response, request_ends))
                }
            })
        };
        let connection = builder
            .serve_connection(TokioIo::new(io), service)
            .into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // hyper's own deadline begins only when it knows which version of HTTP the client speaks.
            let silent = async {
                sleep(HEAD).await;
                if begun.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection was broken");
                },
                () = silent => tracing::debug!(%peer, "a connection had no request"),
                () = place.closed() => tracing::debug!(%peer, "a connection without a request made room"),
            }
        });
    }
    if timeout(CLOSING, connections.shutdown()).await.is_err() {
        tracing::debug!("connections that are still open are closed");
    }
}

/// How many connections may be open at once: three quarters of the files that this process may open, so that it can
/// still open files of its own. The limit is raised as far as the system lets it.
fn most_connections() -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known");
            usize::MAX
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}
