//! Calls of a database: with a deadline, tried again where it is away, and not at all while it is known to be away.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::circuit::Circuit;
use crate::error::IndexError;

/// A wait before another try, which doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// How a database is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long a call may take, all its tries together.
    pub deadline: Duration,
    /// How often a call is tried where the database is away.
    pub tries: u32,
    /// Connections to PostgreSQL at most; Milvus is asked over one.
    pub connections: usize,
    /// MiB that PostgreSQL may use to build a graph. Without room for all of it pgvector takes many times as
    /// long.
    pub graph_memory_mb: u64,
}

impl Default for RemoteOptions {
    /// Two seconds, three tries, eight connections, 2 GiB for a graph.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            tries: 3,
            connections: 8,
            graph_memory_mb: 2_048,
        }
    }
}

/// How calls of a database went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteStats {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that failed because the database was away or too slow.
    pub failed: u64,
    /// Calls that were refused because it was known to be away.
    pub refused: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Microseconds of all answered calls together.
    pub answered_micros: u64,
    /// Whether calls are being refused.
    pub is_open: bool,
}

/// Why a try has not succeeded.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database is away, or its answer did not come whole.
    Away(String),
    /// The call itself is at fault.
    Index(IndexError),
}

/// A runtime on which a database is asked, and how that went.
pub(super) struct Calls {
    // Taken when this is dropped.
    runtime: Option<Runtime>,
    /// Where the database is, for people.
    address: String,
    options: RemoteOptions,
    circuit: Circuit,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    retries: AtomicU64,
    answered_micros: AtomicU64,
}

impl Calls {
    /// # Errors
    /// A thread cannot be had.
    pub(super) fn new(address: &impl Display, options: RemoteOptions) -> Result<Self, IndexError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("onegen-database")
            .enable_all()
            .build()
            .map_err(|error| fault(address, error.to_string()))?;
        Ok(Self {
            runtime: Some(runtime),
            address: address.to_string(),
            options,
            circuit: Circuit::default(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            answered_micros: AtomicU64::new(0),
        })
    }

    /// How the database is asked.
    pub(super) fn options(&self) -> &RemoteOptions {
        &self.options
    }

    /// Does what needs a runtime around it.
    pub(super) fn within_runtime<T>(&self, work: impl FnOnce() -> T) -> T {
        let _runtime = self.runtime.as_ref().map(Runtime::enter);
        work()
    }

    /// How the calls went.
    pub(super) fn stats(&self) -> RemoteStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RemoteStats {
            answered: of(&self.answered),
            failed: of(&self.failed),
            refused: of(&self.refused),
            retries: of(&self.retries),
            answered_micros: of(&self.answered_micros),
            is_open: self.circuit.is_open(),
        }
    }

    /// Makes a call and waits for it. Each try is told when it must have ended. It may be made again after it has
    /// taken effect unseen, so it must do the same twice as once. Not to be called where async code runs.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], and what the call itself is at fault for.
    pub(super) fn call_within<T>(
        &self,
        deadline: Duration,
        attempt: impl AsyncFn(Instant) -> Result<T, Fault>,
    ) -> Result<T, IndexError> {
        let began = Instant::now();
        if let Err(left) = self.circuit.admit(began) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let left = left.as_secs_f64();
            return Err(self.unreachable(format!("it was away and is asked again in {left:.1} s")));
        }
        let end = began + deadline;
        let mut wait = FIRST_WAIT;
        let mut tried = 0;
        loop {
            tried += 1;
            let Some(runtime) = &self.runtime else {
                return Err(IndexError::Closed);
            };
            let reason = match runtime.block_on(attempt(end)) {
                Ok(answer) => {
                    self.circuit.succeeded();
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    let micros = began.elapsed().as_micros() as u64;
                    self.answered_micros.fetch_add(micros, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Fault::Index(error)) => {
                    self.circuit.succeeded();
                    return Err(error);
                }
                Err(Fault::Away(reason)) => reason,
            };
            if tried == self.options.tries || Instant::now() + wait >= end {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.circuit.failed(Instant::now());
                return Err(self.unreachable(reason));
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            runtime.block_on(async { sleep(wait).await });
            wait *= 2;
        }
    }

    fn unreachable(&self, reason: String) -> IndexError {
        IndexError::Unreachable {
            address: self.address.clone(),
            reason,
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // Also where async code runs, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What is wrong with the collection at an address.
pub(super) fn fault(address: &impl Display, reason: impl Into<String>) -> IndexError {
    IndexError::Remote {
        address: address.to_string(),
        reason: reason.into(),
    }
}

/// An error with its causes, as one line.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
