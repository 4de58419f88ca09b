//! What ends a turn from outside: the server's shutdown, the end of its key, its deadline.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep_until;

use crate::admission::{Caller, Validity};
use crate::app::App;
use crate::wire::errors::ApiError;

/// The outer ends of what a caller has asked for.
pub(super) struct Cutoff {
    app: Arc<App>,
    /// Ends when the key that asked is withdrawn.
    validity: Validity,
    /// When the request came.
    received: Instant,
}

impl Cutoff {
    pub(super) fn new(app: &Arc<App>, caller: &Caller, received: Instant) -> Self {
        Self {
            app: app.clone(),
            validity: caller.validity(),
            received,
        }
    }

    /// Waits for what comes next in a turn, but no longer than the turn may last.
    ///
    /// # Errors
    /// The turn was cut off before; the error says by what.
    pub(super) async fn within<T>(&mut self, next: impl Future<Output = T>) -> Result<T, ApiError> {
        let deadline = self.app.bounds.deadline(self.received);
        tokio::select! {
            biased;
            () = self.app.shutdown.is_cut_off() => Err(ApiError::ShuttingDown),
            () = self.validity.ended() => Err(ApiError::KeyWithdrawn),
            () = until(deadline) => Err(ApiError::TimedOut { after: self.received.elapsed() }),
            next = next => Ok(next),
        }
    }
}

/// Waits for a deadline, if there is one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
