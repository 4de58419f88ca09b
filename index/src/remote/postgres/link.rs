//! Calls of PostgreSQL, over a pool of connections.

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
    Runtime as PoolRuntime,
};
use tokio::time::timeout_at;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::address::PostgresAddress;
use crate::error::IndexError;
use crate::remote::calls::{Calls, Fault, RemoteOptions, RemoteStats, fault, in_full};

/// The variable that holds the password of addresses without one, as for PostgreSQL's own programs.
const PASSWORD: &str = "PGPASSWORD";

/// Connections to a database.
pub struct Link {
    calls: Calls,
    pool: Pool,
    address: PostgresAddress,
}

impl Link {
    /// Each connection begins with the statements of `session`. No connection is made yet.
    ///
    /// # Errors
    /// Threads or TLS cannot be had.
    pub fn new(
        address: &PostgresAddress,
        options: RemoteOptions,
        session: &'static str,
    ) -> Result<Self, IndexError> {
        let fault = |reason: String| fault(address, reason);
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
            calls: Calls::new(address, options)?,
            pool,
            address: address.clone(),
        })
    }

    /// Where the database is.
    pub fn address(&self) -> &PostgresAddress {
        &self.address
    }

    /// How its calls went.
    pub fn stats(&self) -> RemoteStats {
        self.calls.stats()
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
        self.call_within(self.calls.options().deadline, work)
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
        self.calls
            .call_within(deadline, async |end| self.attempt(end, &work).await)
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

    /// What the database has refused, in its words.
    fn refused(&self, error: &Error) -> Fault {
        if is_away(error) {
            return Fault::Away(in_full(error));
        }
        Fault::Index(fault(&self.address, in_full(error)))
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
