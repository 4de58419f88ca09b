//! Calls of a database: with a deadline, tried again where it is away, and not at all while it is known to be away.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
    Runtime as PoolRuntime,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::address::{RemoteAddress, in_full};
use super::circuit::Circuit;
use crate::error::IndexError;

/// The variable that holds the password of addresses without one, as for PostgreSQL's own programs.
const PASSWORD: &str = "PGPASSWORD";

/// A wait before another try, which doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// How a database is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long a call may take, all its tries together.
    pub deadline: Duration,
    /// How often a call is tried where the database is away.
    pub tries: u32,
    /// Connections at most.
    pub connections: usize,
    /// MiB that the database may use to build a graph. Without room for all of it pgvector takes many times as
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
enum Fault {
    /// The database is away, or its answer did not come whole.
    Away(String),
    /// The call itself is at fault.
    Index(IndexError),
}

/// Connections to a database, and a runtime that drives them.
pub struct Link {
    // Taken when the link is dropped.
    runtime: Option<Runtime>,
    pool: Pool,
    address: RemoteAddress,
    options: RemoteOptions,
    circuit: Circuit,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    retries: AtomicU64,
    answered_micros: AtomicU64,
}

impl Link {
    /// Each connection begins with the statements of `session`. No connection is made yet.
    ///
    /// # Errors
    /// Threads or TLS cannot be had.
    pub fn new(
        address: &RemoteAddress,
        options: RemoteOptions,
        session: &'static str,
    ) -> Result<Self, IndexError> {
        let fault = |reason: String| address.fault(reason);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("onegen-database")
            .enable_all()
            .build()
            .map_err(|error| fault(error.to_string()))?;
        let mut config = Config::clone(&address.config);
        config.connect_timeout(options.deadline);
        config.application_name("onegen");
        if config.get_password().is_none()
            && let Ok(password) = env::var(PASSWORD)
        {
            config.password(password);
        }
        let manager = manager(config).map_err(fault)?;
        let session = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            Box::pin(async move {
                let set = client.batch_execute(session).await;
                set.map_err(HookError::Backend)
            })
        });
        let pool = Pool::builder(manager)
            .max_size(options.connections)
            .runtime(PoolRuntime::Tokio1)
            .post_create(session)
            .build()
            .map_err(|error| fault(error.to_string()))?;
        Ok(Self {
            runtime: Some(runtime),
            pool,
            address: address.clone(),
            options,
            circuit: Circuit::default(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            answered_micros: AtomicU64::new(0),
        })
    }

    /// Where the database is.
    pub fn address(&self) -> &RemoteAddress {
        &self.address
    }

    /// How its calls went.
    pub fn stats(&self) -> RemoteStats {
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

    /// Makes a call and waits for it. It may be made again after it has taken effect unseen, so it must do the same
    /// twice as once. Not to be called where async code runs.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], and what the call itself is at fault for.
    pub fn call<T>(
        &self,
        work: impl AsyncFn(&mut Client) -> Result<T, Error>,
    ) -> Result<T, IndexError> {
        self.call_within(self.options.deadline, work)
    }

    /// [`Link::call`] with a deadline of its own.
    ///
    /// # Errors
    /// As of [`Link::call`].
    pub fn call_within<T>(
        &self,
        deadline: Duration,
        work: impl AsyncFn(&mut Client) -> Result<T, Error>,
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
            let reason = match runtime.block_on(self.attempt(end, &work)) {
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

    async fn attempt<T>(
        &self,
        end: Instant,
        work: &impl AsyncFn(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let too_slow = |_| Fault::Away("it does not answer in time".to_owned());
        let connected = timeout_at(end.into(), self.pool.get()).await;
        let mut client = connected.map_err(too_slow)?.map_err(pool_fault)?;
        let answered = timeout_at(end.into(), work(&mut client)).await;
        match answered.map(|answer| answer.map_err(|error| self.refused(&error))) {
            Ok(Err(Fault::Away(reason))) => {
                drop(Object::take(client));
                Err(Fault::Away(reason))
            }
            Ok(answer) => answer,
            Err(elapsed) => {
                // The answer may still come, and would be taken for that of the next call.
                drop(Object::take(client));
                Err(too_slow(elapsed))
            }
        }
    }

    fn unreachable(&self, reason: String) -> IndexError {
        IndexError::Unreachable {
            address: self.address.to_string(),
            reason,
        }
    }

    /// What the database has refused, in its words.
    fn refused(&self, error: &Error) -> Fault {
        if is_away(error) {
            return Fault::Away(in_full(error));
        }
        Fault::Index(self.address.fault(in_full(error)))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Also where async code runs, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn manager(config: Config) -> Result<Manager, String> {
    let options = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let mode = config.get_ssl_mode();
    if mode == SslMode::Disable {
        return Ok(Manager::from_config(config, NoTls, options));
    }
    match tls() {
        Ok(tls) => Ok(Manager::from_config(config, tls, options)),
        // TLS is used where the database has it, and here it could not be checked.
        Err(_) if mode == SslMode::Prefer => Ok(Manager::from_config(config, NoTls, options)),
        Err(reason) => Err(reason),
    }
}

/// TLS that trusts the system's certificates. The provider is named, because a program may hold several.
fn tls() -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            "the system has no certificates that a database's could be checked against".into(),
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn pool_fault(error: PoolError) -> Fault {
    Fault::Away(match error {
        PoolError::Backend(error) => in_full(&error),
        other => in_full(&other),
    })
}

/// Whether another try may succeed. An error without a code of the database's is one of the connection, since all
/// statements and types are fixed.
fn is_away(error: &Error) -> bool {
    let Some(error) = error.as_db_error() else {
        return true;
    };
    let away = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_FAILURE,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::QUERY_CANCELED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    away.contains(error.code())
}
