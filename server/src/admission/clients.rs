//! Counts the requests of each client.
//!
//! A client is a key, or an address on a server without keys. Its requests are counted by the generic
//! cell rate algorithm (ITU-T I.371, in its form of virtual scheduling): the requests of one minute may
//! come at once, and after that one each 60/n seconds. The algorithm is ten lines. The crate governor
//! implements it too, but it would add six more crates, and it could not share one entry with the count
//! of the requests that are being answered.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::admission::caller::Owner;
use crate::wire::errors::ApiError;

const MINUTE: Duration = Duration::from_secs(60);

/// A client whose requests are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Key(Owner),
    Address(IpAddr),
    /// The request did not come through a socket, so neither is known.
    Unknown,
}

/// The counts of one client.
struct ClientCounter {
    /// The time of its next request if all had come evenly spaced. For a client that sends fewer
    /// requests this is in the past.
    due: Instant,
    under_way: u32,
}

/// The counters of all clients.
pub(super) struct ClientCounters {
    requests_per_minute: Option<NonZeroU32>,
    max_concurrent: Option<NonZeroU32>,
    counters: DashMap<Client, ClientCounter>,
    /// When the counters of idle clients were last removed.
    swept: Mutex<Instant>,
}

impl ClientCounters {
    pub(super) fn new(
        requests_per_minute: Option<NonZeroU32>,
        max_concurrent: Option<NonZeroU32>,
    ) -> Self {
        Self {
            requests_per_minute,
            max_concurrent,
            counters: DashMap::new(),
            swept: Mutex::new(Instant::now()),
        }
    }

    /// Counts a request that begins.
    ///
    /// # Errors
    /// The client has sent too many requests. A refused request is not counted.
    pub(super) fn enter(&self, client: &Client, now: Instant) -> Result<(), ApiError> {
        self.forget_idle(now);
        let mut counter = self
            .counters
            .entry(client.clone())
            .or_insert(ClientCounter {
                due: now,
                under_way: 0,
            });
        if let Some(most) = self.max_concurrent
            && counter.under_way >= most.get()
        {
            return Err(ApiError::TooManyAtOnce { most: most.get() });
        }
        if let Some(per_minute) = self.requests_per_minute {
            counter.take_one(per_minute, now)?;
        }
        counter.under_way += 1;
        Ok(())
    }

    /// Counts a request that has ended.
    pub(super) fn leave(&self, client: &Client) {
        if let Some(mut counter) = self.counters.get_mut(client) {
            counter.under_way = counter.under_way.saturating_sub(1);
        }
    }

    fn forget_idle(&self, now: Instant) {
        {
            let mut swept = self.swept.lock();
            if now.saturating_duration_since(*swept) <= MINUTE {
                return;
            }
            *swept = now;
        }
        self.counters
            .retain(|_, counter| counter.under_way > 0 || counter.due > now);
    }
}

impl ClientCounter {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(per_minute: u32) -> ClientCounters {
        ClientCounters::new(NonZeroU32::new(per_minute), None)
    }

    fn wait(refused: ApiError) -> Duration {
        match refused {
            ApiError::TooManyInAMinute { wait, .. } => wait,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_one_each_interval() {
        let counters = counters(6);
        let start = Instant::now();
        for _ in 0..6 {
            counters.enter(&Client::Unknown, start).unwrap();
        }
        let refused = counters.enter(&Client::Unknown, start).unwrap_err();
        assert_eq!(wait(refused), Duration::from_secs(10));
        // A refusal costs nothing, and a client that waits as long as it was told is admitted.
        let later = start + Duration::from_secs(10);
        counters.enter(&Client::Unknown, later).unwrap();
        let refused = counters.enter(&Client::Unknown, later).unwrap_err();
        assert_eq!(wait(refused), Duration::from_secs(10));
        // Other clients are not affected.
        let other = Client::Key(Owner::key("other"));
        counters.enter(&other, start).unwrap();
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_comes_through() {
        let counters = counters(30);
        let start = Instant::now();
        let admitted = (0..6000)
            .filter(|tick| {
                let now = start + Duration::from_millis(100) * *tick;
                counters.enter(&Client::Unknown, now).is_ok()
            })
            .count();
        // Ten minutes, and one minute's requests at the start.
        assert_eq!(admitted, 30 * 11 - 1);
    }

    #[test]
    fn clients_that_ask_for_nothing_any_more_are_forgotten() {
        let counters = counters(60);
        let start = Instant::now();
        for last in 0..200 {
            let address = Client::Address(IpAddr::from([10, 0, 0, last]));
            counters.enter(&address, start).unwrap();
            counters.leave(&address);
        }
        let later = start + Duration::from_secs(120);
        counters.enter(&Client::Unknown, later).unwrap();
        assert_eq!(counters.counters.len(), 1);
    }
}
