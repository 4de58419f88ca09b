//! Serves requests until the server is told to stop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::app::App;
use crate::serving::connections::serve_connections;
use crate::serving::router::router;
use crate::serving::tls::TlsListener;

/// The time for telling clients that their answers were cut off.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until `stop` completes. From then on the server counts as not ready and refuses new
/// requests, while the answers in progress are finished. Answers that are not finished after
/// `drain_timeout` are cancelled, and their clients are told.
///
/// # Errors
/// The listener's address cannot be read.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
) -> io::Result<()> {
    let served = listen(listener, app.clone(), stop, drain_timeout).await;
    if let Some(traces) = &app.traces {
        traces.flush().await;
    }
    served
}

async fn listen(
    listener: TcpListener,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
) -> io::Result<()> {
    // Events are small and must be sent at once (`TCP_NODELAY`).
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection will be slower than it could be");
        }
    });
    match app.certificate.clone() {
        None => serve_on(listener, app, stop, drain_timeout).await,
        Some(certificate) => {
            let listener = TlsListener::new(listener, certificate)?;
            serve_on(listener, app, stop, drain_timeout).await;
        }
    }
    Ok(())
}

async fn serve_on<L>(
    mut listener: L,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
) where
    L: Listener<Addr = SocketAddr>,
{
    let (stopped, draining) = oneshot::channel();
    let drained = {
        let app = app.clone();
        async move {
            stop.await;
            app.shutdown.drain();
            // If serving has ended meanwhile, nothing waits for this message.
            let _ = stopped.send(());
            // Connections are accepted until then, so that new requests get an answer that the
            // server is stopping.
            app.shutdown.idle().await;
        }
    };
    let serving = serve_connections(&mut listener, router(app.clone()), drained);
    let too_long = async {
        // If serving ends first, the message is never sent.
        if draining.await.is_ok() {
            tokio::time::sleep(drain_timeout).await;
            tracing::warn!("answers that are still under way are cut off");
            app.shutdown.cut_off();
            tokio::time::sleep(LAST_WORDS).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = too_long => {}
    }
}
