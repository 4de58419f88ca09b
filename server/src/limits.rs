//! How much one client may ask for at once and in a minute, and who is being answered.
//!
//! A client is a key, or an address where the server asks for no keys. Its requests are counted by the
//! generic cell rate algorithm (ITU-T I.371, in its form of virtual scheduling): a minute's worth may
//! come at once, and from then on one each 60/n seconds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::watch;

use crate::access::{Caller, Owner, is_counted};
use crate::app::App;
use crate::client_address::ClientAddress;
use crate::config::TrafficConfig;
use crate::errors::ApiError;
use crate::until_sent::until_sent;

const MINUTE: Duration = Duration::from_secs(60);

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Key(Owner),
    Address(IpAddr),
    /// Neither is known: a request that came through no socket.
    Unknown,
}

/// What a client has asked for.
struct Used {
    /// When its next request would come if all had come evenly; in the past for one that asks for less.
    due: Instant,
    under_way: u32,
}

/// The limits, and what is counted under them.
pub(crate) struct Limits {
    config: TrafficConfig,
    clients: Mutex<Clients>,
    under_way: watch::Sender<usize>,
}

struct Clients {
    used: HashMap<Client, Used>,
    swept: Instant,
}

/// A request that is being answered. Dropped when its answer has ended.
pub(crate) struct Ticket {
    app: Arc<App>,
    client: Client,
}

impl Limits {
    pub(crate) fn new(config: TrafficConfig) -> Self {
        let clients = Clients {
            used: HashMap::new(),
            swept: Instant::now(),
        };
        Self {
            config,
            clients: Mutex::new(clients),
            under_way: watch::Sender::new(0),
        }
    }

    /// Bytes that a body may hold.
    pub(crate) fn body_bytes(&self) -> usize {
        self.config.max_body_kb.saturating_mul(1024)
    }

    /// When a request that came at a time must have been answered.
    pub(crate) fn deadline(&self, received: Instant) -> Option<Instant> {
        received.checked_add(self.config.request_timeout?)
    }

    /// How many tokens an answer may have, where a request asks for so many.
    ///
    /// # Errors
    /// It asks for more than it may have.
    pub(crate) fn max_tokens(&self, asked: Option<usize>) -> Result<Option<usize>, ApiError> {
        match (asked, self.config.max_tokens) {
            (Some(asked), Some(most)) if asked > most => Err(ApiError::invalid(
                "max_tokens",
                format!("is {asked}, but this server gives at most {most}"),
            )),
            (asked, most) => Ok(asked.or(most)),
        }
    }

    /// Waits until nothing is being answered.
    pub(crate) async fn idle(&self) {
        // Fails only without a sender, and that is here.
        let _ = self.under_way.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Counts a request that begins.
    fn enter(&self, client: &Client, now: Instant) -> Result<(), ApiError> {
        let mut clients = self.lock();
        if now.saturating_duration_since(clients.swept) > MINUTE {
            clients.swept = now;
            clients
                .used
                .retain(|_, used| used.under_way > 0 || used.due > now);
        }
        let used = clients.used.entry(client.clone()).or_insert(Used {
            due: now,
            under_way: 0,
        });
        if let Some(most) = self.config.max_concurrent
            && used.under_way >= most.get()
        {
            return Err(ApiError::TooManyAtOnce { most: most.get() });
        }
        if let Some(per_minute) = self.config.requests_per_minute {
            used.take_one(per_minute, now)?;
        }
        used.under_way += 1;
        self.under_way.send_modify(|n| *n += 1);
        Ok(())
    }

    fn leave(&self, client: &Client) {
        if let Some(used) = self.lock().used.get_mut(client) {
            used.under_way = used.under_way.saturating_sub(1);
        }
        self.under_way.send_modify(|n| *n = n.saturating_sub(1));
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        // Nothing in here panics halfway through a change.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn take_one(&mut self, per_minute: NonZeroU32, now: Instant) -> Result<(), ApiError> {
        let due = self.due.max(now) + MINUTE / per_minute.get();
        match due.saturating_duration_since(now + MINUTE) {
            Duration::ZERO => {
                self.due = due;
                Ok(())
            }
            wait => Err(ApiError::TooManyInAMinute {
                most: per_minute.get(),
                wait,
            }),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.app.limits.leave(&self.client);
    }
}

/// Refuses what is too much, and everything once the server is stopping; counts the rest until its
/// answer has ended.
pub(crate) async fn count(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !is_counted(request.method(), request.uri().path()) {
        return Ok(next.run(request).await);
    }
    if app.is_draining() {
        return Err(ApiError::ShuttingDown);
    }
    let client = client(&request);
    app.limits.enter(&client, Instant::now())?;
    let ticket = Arc::new(Ticket { app, client });
    // For a turn that goes on without its client.
    request.extensions_mut().insert(ticket.clone());
    Ok(until_sent(next.run(request).await, ticket))
}

fn client(request: &Request) -> Client {
    let caller = request.extensions().get::<Caller>();
    if let Some(caller) = caller.filter(|caller| caller.owner.name().is_some()) {
        return Client::Key(caller.owner.clone());
    }
    let address = request.extensions().get();
    address.map_or(Client::Unknown, |ClientAddress(address)| {
        Client::Address(*address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_minute: u32) -> Limits {
        Limits::new(TrafficConfig {
            requests_per_minute: NonZeroU32::new(per_minute),
            ..TrafficConfig::default()
        })
    }

    fn wait(refused: ApiError) -> Duration {
        match refused {
            ApiError::TooManyInAMinute { wait, .. } => wait,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_one_each_interval() {
        let limits = limits(6);
        let start = Instant::now();
        for _ in 0..6 {
            limits.enter(&Client::Unknown, start).unwrap();
        }
        let refused = limits.enter(&Client::Unknown, start).unwrap_err();
        assert_eq!(wait(refused), Duration::from_secs(10));
        // Who is refused pays nothing for it, and who waits as told is let in.
        let later = start + Duration::from_secs(10);
        limits.enter(&Client::Unknown, later).unwrap();
        let refused = limits.enter(&Client::Unknown, later).unwrap_err();
        assert_eq!(wait(refused), Duration::from_secs(10));
        // Nobody else is concerned.
        let other = Client::Key(Owner::key("other"));
        limits.enter(&other, start).unwrap();
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_comes_through() {
        let limits = limits(30);
        let start = Instant::now();
        let admitted = (0..6000)
            .filter(|tick| {
                let now = start + Duration::from_millis(100) * *tick;
                limits.enter(&Client::Unknown, now).is_ok()
            })
            .count();
        // Ten minutes, and a minute's worth at the start.
        assert_eq!(admitted, 30 * 11 - 1);
    }

    #[test]
    fn clients_that_ask_for_nothing_any_more_are_forgotten() {
        let limits = limits(60);
        let start = Instant::now();
        for last in 0..200 {
            let address = Client::Address(IpAddr::from([10, 0, 0, last]));
            limits.enter(&address, start).unwrap();
            limits.leave(&address);
        }
        let later = start + Duration::from_secs(120);
        limits.enter(&Client::Unknown, later).unwrap();
        assert_eq!(limits.lock().used.len(), 1);
    }
}
