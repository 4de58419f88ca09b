//! Runs slow work outside of the async threads.

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
