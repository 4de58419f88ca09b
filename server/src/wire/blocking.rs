//! Runs slow work outside of the async threads.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::wire::errors::ApiError;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// [`ApiError::Internal`] if it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = spawn_blocking(work).await;
    done.map_err(|panicked| ApiError::Internal(panicked.to_string()))
}

/// Runs `work` as [`blocking`] does, once `room` has so many permits for it. They are given back when the
/// work ends, also when its request does not wait for it any more.
///
/// # Errors
/// [`ApiError::Internal`] if it panics.
pub(crate) async fn blocking_within<T: Send + 'static>(
    room: &Arc<Semaphore>,
    permits: u32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    // No semaphore of the server is ever closed, so this cannot fail.
    let permits = room.clone().acquire_many_owned(permits).await;
    blocking(move || {
        let _permits = permits;
        work()
    })
    .await
}
