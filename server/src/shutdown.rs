//! How the server stops: it refuses new requests, waits for the answers in progress, and finally cuts
//! off those that take too long.

use std::sync::Arc;

use tokio::sync::watch;

/// The state of the shutdown, and the number of requests that are being answered.
pub(crate) struct Shutdown {
    draining: watch::Sender<bool>,
    cutting_off: watch::Sender<bool>,
    under_way: watch::Sender<usize>,
}

/// A request that is being answered. Dropped when its answer has ended.
pub(crate) struct InFlightRequest(Arc<Shutdown>);

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self {
            draining: watch::Sender::new(false),
            cutting_off: watch::Sender::new(false),
            under_way: watch::Sender::new(0),
        }
    }

    /// From now on the server counts as not ready and refuses new requests.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether new requests are refused.
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Tells all turns in progress to end.
    pub(crate) fn cut_off(&self) {
        self.cutting_off.send_replace(true);
    }

    /// Waits until turns in progress are told to end.
    pub(crate) async fn is_cut_off(&self) {
        // Waiting fails only if the sender was dropped, and `self` holds it.
        let _ = self.cutting_off.subscribe().wait_for(|cut| *cut).await;
    }

    /// Counts a request until the returned guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlightRequest {
        self.under_way.send_modify(|n| *n += 1);
        InFlightRequest(self.clone())
    }

    /// Waits until no request is being answered.
    pub(crate) async fn idle(&self) {
        // Waiting fails only if the sender was dropped, and `self` holds it.
        let _ = self.under_way.subscribe().wait_for(|n| *n == 0).await;
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|n| *n = n.saturating_sub(1));
    }
}
