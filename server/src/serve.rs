//! Answering until told to stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::app::App;
use crate::router::router;

/// How long answers under way may still take after the signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Serves until `stop` is over, then lets the answers under way come to their ends, but no longer
/// than half a minute.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Events are small and wait for nobody.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection will be slower than it could be");
        }
    });
    let (stopped, draining) = oneshot::channel();
    let signalled = {
        let app = app.clone();
        async move {
            stop.await;
            app.drain();
            // Nobody waits any more when serving has failed meanwhile.
            let _ = stopped.send(());
        }
    };
    let serving = axum::serve(listener, router(app)).with_graceful_shutdown(signalled);
    let too_long = async {
        // Never sent when serving fails first.
        if draining.await.is_ok() {
            tokio::time::sleep(DRAIN_LIMIT).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving.into_future() => served,
        () = too_long => {
            tracing::warn!("answers that were still under way are cut off");
            Ok(())
        }
    }
}
