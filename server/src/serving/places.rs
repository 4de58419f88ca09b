//! Room for connections: each takes a file descriptor, and a process has a limited number of them.
//!
//! When there is no room, the connection that has had no request in progress for longest is closed, so that clients
//! that send nothing keep nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The places of all connections, in the order in which these came.
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
    /// Told when a connection has ended or has no request any more.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    so_far: u64,
    places: BTreeMap<u64, Arc<ConnectionState>>,
}

#[derive(Default)]
struct ConnectionState {
    /// Requests whose responses are not complete.
    in_progress: AtomicUsize,
    close: Notify,
}

/// The place of one connection. Dropped, it is free.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    state: Arc<ConnectionState>,
}

/// Held while a request is in progress.
pub(super) struct InProgress {
    places: Arc<Places>,
    state: Arc<ConnectionState>,
}

impl Places {
    /// At least one place.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Takes a place for a new connection. Without room, the oldest connection without a request is told to close, and
    /// this waits until one has ended.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            {
                let mut taken = self.taken.lock();
                if taken.places.len() < self.most {
                    let state = Arc::new(ConnectionState::default());
                    let number = taken.so_far;
                    taken.so_far += 1;
                    taken.places.insert(number, state.clone());
                    return Place {
                        places: self.clone(),
                        number,
                        state,
                    };
                }
                let silent =
                    |state: &&Arc<ConnectionState>| state.in_progress.load(Ordering::Relaxed) == 0;
                if let Some(oldest) = taken.places.values().find(silent) {
                    oldest.close.notify_one();
                }
            }
            freed.await;
        }
    }
}

impl Place {
    /// Completes when the connection must make room for others.
    pub(super) async fn closed(&self) {
        self.state.close.notified().await;
    }

    /// Counts requests of this connection.
    pub(super) fn requests(&self) -> impl Fn() -> InProgress + Clone + use<> {
        let (places, state) = (self.places.clone(), self.state.clone());
        move || {
            state.in_progress.fetch_add(1, Ordering::Relaxed);
            InProgress {
                places: places.clone(),
                state: state.clone(),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().places.remove(&self.number);
        self.places.freed.notify_one();
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.state.in_progress.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.places.freed.notify_one();
        }
    }
}

/// A response's body, with which its request ends.
struct LastingBody {
    body: Body,
    _request: InProgress,
}

/// Has a request end with the body of its response.
pub(super) fn lasting(response: Response, request: InProgress) -> Response {
    response.map(|body| {
        Body::new(LastingBody {
            body,
            _request: request,
        })
    })
}

impl HttpBody for LastingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn the_oldest_without_a_request_makes_room() {
        let places = Places::new(2);
        let (first, second) = (places.take().await, places.take().await);
        let asks = first.requests()();
        let (third, ()) = tokio::join!(places.take(), async {
            second.closed().await;
            drop(second);
        });
        drop((asks, third));
        // Now the first has no request either, and is the oldest.
        let _other = places.take().await;
        let (_, ()) = tokio::join!(places.take(), async {
            first.closed().await;
            drop(first);
        });
    }

    #[tokio::test]
    async fn while_all_have_requests_a_new_one_waits() {
        let places = Places::new(1);
        let only = places.take().await;
        let asks = only.requests()();
        assert!(timeout(MOMENT, places.take()).await.is_err());
        assert!(timeout(MOMENT, only.closed()).await.is_err());
        // It is told to close as soon as its request has ended.
        let (next, ()) = tokio::join!(timeout(20 * MOMENT, places.take()), async {
            tokio::task::yield_now().await;
            drop(asks);
            only.closed().await;
            drop(only);
        });
        assert!(next.is_ok());
    }
}
