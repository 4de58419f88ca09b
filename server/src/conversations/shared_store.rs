//! A table of PostgreSQL with the conversations of several servers, so that each can go on with any of them.
//!
//! A row holds the content of a transcript's file and the engine's token log. Its version counts its changes:
//! a server writes only over the version that it knows. A server that runs a turn or deletes something has
//! the row's lease, and while it has, no other one takes the lease or writes. The lease of a server that is
//! killed runs out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use onegen_engine::ConversationId;
use onegen_index::{IndexError, PostgresAddress, PostgresLink, RemoteOptions, RemoteStats};
use parking_lot::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::recognise::{Digest, SALT_BYTES, new_salt};

/// How long a lease holds after it was taken or renewed: so long nobody goes on with a conversation whose server
/// was killed during a turn of it.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
const RENEWED_EVERY: Duration = Duration::from_millis(1500);

/// What connections are set to: every statement is planned for its own parameters.
const SESSION: &str = "SET plan_cache_mode = force_custom_plan";

/// A conversation as the table has it.
pub(super) struct SharedRow {
    pub(super) version: i64,
    /// The content of a transcript's file.
    pub(super) record: Vec<u8>,
    /// The engine's token log; `None` if nothing of it may be used any more.
    pub(super) log: Option<Vec<u8>>,
}

/// What the table has of a conversation, beside the version that is known.
pub(super) enum Found {
    /// The known version.
    Same,
    /// Another version.
    Other(SharedRow),
    /// None.
    Nothing,
}

/// What came of asking for a lease.
pub(super) enum LeaseOutcome {
    Taken(LeaseNumber, Found),
    /// Another server has it until this second since 1970. While that server runs, it moves on.
    Elsewhere(f64),
    /// There is no such row.
    Nothing,
}

/// Tells a lease from later ones of the same server.
pub(super) type LeaseNumber = i64;

/// What is written to a row.
pub(super) struct SharedChange<'c> {
    /// The version that is written over; `None` for a new row.
    pub(super) known: Option<i64>,
    /// The digest by which other servers recognise the conversation; `None` for one that is named.
    pub(super) head: Option<Digest>,
    pub(super) record: &'c [u8],
    pub(super) log: Option<&'c [u8]>,
    /// Names of the documents whose text the log holds.
    pub(super) documents: Vec<String>,
    /// Whether the lease is given back with it, so that others can go on at once.
    pub(super) releases: bool,
}

/// The table, and this server's leases in it.
pub(crate) struct SharedStore {
    link: Arc<PostgresLink>,
    table: String,
    /// Names this process, in leases.
    server: String,
    leases: Arc<Mutex<HashMap<ConversationId, LeaseNumber>>>,
    leases_so_far: AtomicI64,
    salt: [u8; SALT_BYTES],
    /// Tells the table from others, also from a later one of its name.
    table_id: String,
    /// Taken when the store is dropped.
    released: Option<Sender<(ConversationId, LeaseNumber)>>,
    keeper: Option<JoinHandle<()>>,
}

impl SharedStore {
    /// Opens the table and makes it if there is none.
    ///
    /// # Errors
    /// The database does not answer, or refuses.
    pub(crate) fn open(address: &PostgresAddress) -> Result<Self, IndexError> {
        let link = Arc::new(PostgresLink::new(
            address,
            RemoteOptions::default(),
            SESSION,
        )?);
        let table = address.table().to_owned();
        let salt = make_tables(&link, &table)?;
        let leases = Arc::new(Mutex::new(HashMap::new()));
        let server = Uuid::new_v4().simple().to_string();
        let (released, inbox) = channel();
        let keeper = LeaseKeeper {
            link: link.clone(),
            table: table.clone(),
            server: server.clone(),
            leases: leases.clone(),
        };
        let keeper = thread::Builder::new()
            .name("onegen-leases".into())
            .spawn(move || keeper.run(&inbox))
            .map_err(|error| IndexError::Remote {
                address: address.to_string(),
                reason: format!("no thread can be had: {error}"),
            })?;
        Ok(Self {
            link,
            table,
            server,
            leases,
            leases_so_far: AtomicI64::new(0),
            salt,
            table_id: blake3::hash(&salt).to_hex()[..16].to_owned(),
            released: Some(released),
            keeper: Some(keeper),
        })
    }

    /// What digests of transcripts are salted with, the same for all servers.
    pub(super) fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt
    }

    /// Tells the table from others.
    pub(super) fn table_id(&self) -> &str {
        &self.table_id
    }

    /// How calls of the database went.
    pub(crate) fn stats(&self) -> RemoteStats {
        self.link.stats()
    }

    /// Where the table is.
    pub(crate) fn address(&self) -> &PostgresAddress {
        self.link.address()
    }

    /// What the table has of a conversation.
    pub(super) fn find(
        &self,
        id: &ConversationId,
        known: Option<i64>,
    ) -> Result<Found, IndexError> {
        let statement = format!(
            "SELECT {} FROM {} t WHERE t.id = $1",
            columns("$2"),
            self.table
        );
        let row = self.link.call(async |client| {
            let row = client
                .query_opt(&statement, &[&id.as_str(), &known])
                .await?;
            row.map(|row| found(&row)).transpose()
        })?;
        Ok(row.unwrap_or(Found::Nothing))
    }

    /// Takes the lease of a conversation, unless another server has it. It is renewed until it is released.
    pub(super) fn lease(
        &self,
        id: &ConversationId,
        known: Option<i64>,
    ) -> Result<LeaseOutcome, IndexError> {
        let number = self.leases_so_far.fetch_add(1, Ordering::Relaxed);
        let take = format!(
            "UPDATE {} t SET holder = $1, lease = $2, held_until = now() + $3::float8 * interval '1 s' \
             WHERE t.id = $4 AND {} RETURNING {}",
            self.table,
            not_elsewhere("$1"),
            columns("$5")
        );
        let look = format!(
            "SELECT coalesce(extract(epoch FROM held_until), 0)::float8 FROM {} WHERE id = $1",
            self.table
        );
        let outcome = self.link.call(async |client| {
            let seconds = LEASE.as_secs_f64();
            let row = client
                .query_opt(
                    &take,
                    &[&self.server, &number, &seconds, &id.as_str(), &known],
                )
                .await?;
            Ok(match row {
                Some(row) => LeaseOutcome::Taken(number, found(&row)?),
                None => match client.query_opt(&look, &[&id.as_str()]).await? {
                    Some(row) => LeaseOutcome::Elsewhere(row.try_get(0)?),
                    None => LeaseOutcome::Nothing,
                },
            })
        })?;
        if let LeaseOutcome::Taken(..) = outcome {
            self.leases.lock().insert(id.clone(), number);
        }
        Ok(outcome)
    }

    /// Gives a lease back. Does not wait for the database.
    pub(super) fn release(&self, id: &ConversationId, number: LeaseNumber) {
        let mut leases = self.leases.lock();
        // It may have been given back with what was written.
        if leases.get(id) != Some(&number) {
            return;
        }
        leases.remove(id);
        if let Some(released) = &self.released {
            // The thread runs as long as this handle exists.
            let _ = released.send((id.clone(), number));
        }
    }

    /// Writes a conversation and returns its new version, or `None` if another server has changed it or has its
    /// lease.
    pub(super) fn write(
        &self,
        id: &ConversationId,
        change: &SharedChange<'_>,
    ) -> Result<Option<i64>, IndexError> {
        // A call that is made again may have taken effect unseen: the row then has this mark.
        let mark = Uuid::new_v4().simple().to_string();
        let seen = format!(
            "SELECT version FROM {} WHERE id = $1 AND written = $2",
            self.table
        );
        let (name, head) = (
            id.as_str(),
            change.head.map(|head| head.as_bytes().to_vec()),
        );
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &name,
            &mark,
            &head,
            &change.record,
            &change.log,
            &change.documents,
        ];
        let statement = if change.known.is_some() {
            parameters.extend::<[&(dyn ToSql + Sync); 3]>([
                &self.server,
                &change.known,
                &change.releases,
            ]);
            format!(
                "UPDATE {} t SET version = t.version + 1, written = $2, head = $3, record = $4, log = $5, \
                 documents = $6, changed = now(), holder = CASE WHEN $9 THEN NULL ELSE t.holder END \
                 WHERE t.id = $1 AND t.version = $8 AND {} RETURNING version",
                self.table,
                not_elsewhere("$7")
            )
        } else {
            format!(
                "INSERT INTO {} (id, version, written, head, record, log, documents) \
                 VALUES ($1, 1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING RETURNING version",
                self.table
            )
        };
        let version = self.link.call(async |client| {
            let row = match client.query_opt(&statement, &parameters).await? {
                Some(row) => Some(row),
                None => client.query_opt(&seen, &[&name, &mark]).await?,
            };
            row.map(|row| row.try_get(0)).transpose()
        })?;
        if version.is_some() && change.releases {
            self.leases.lock().remove(id);
        }
        Ok(version)
    }

    /// Deletes a conversation, unless another server has its lease. Returns whether it is gone.
    pub(super) fn remove(&self, id: &ConversationId) -> Result<bool, IndexError> {
        let delete = format!(
            "DELETE FROM {} t WHERE t.id = $2 AND {}",
            self.table,
            not_elsewhere("$1")
        );
        let look = format!("SELECT FROM {} WHERE id = $1", self.table);
        self.link.call(async |client| {
            client
                .execute(&delete, &[&self.server, &id.as_str()])
                .await?;
            Ok(client.query_opt(&look, &[&id.as_str()]).await?.is_none())
        })
    }

    /// The conversation whose whole transcript has the last of these digests that any has; of several the one that
    /// was changed last.
    pub(super) fn with_last_head(
        &self,
        heads: &[Digest],
    ) -> Result<Option<ConversationId>, IndexError> {
        let heads: Vec<Vec<u8>> = heads.iter().map(|head| head.as_bytes().to_vec()).collect();
        let statement = format!(
            "SELECT t.id FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted (head, place) \
             JOIN {} t ON t.head = wanted.head ORDER BY wanted.place DESC, t.changed DESC LIMIT 1",
            self.table
        );
        self.link.call(async |client| {
            let row = client.query_opt(&statement, &[&heads]).await?;
            let id: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
            Ok(id.map(Into::into))
        })
    }

    /// Deletes the token logs that hold any of these documents; transcripts stay.
    pub(super) fn forget_logs(&self, documents: &[String]) -> Result<(), IndexError> {
        let statement = format!(
            "UPDATE {} SET log = NULL, documents = '{{}}' WHERE documents && $1",
            self.table
        );
        self.link.call(async |client| {
            client.execute(&statement, &[&documents]).await?;
            Ok(())
        })
    }
}

impl Drop for SharedStore {
    fn drop(&mut self) {
        drop(self.released.take());
        if let Some(keeper) = self.keeper.take() {
            // A panic of the thread was reported when it happened.
            let _ = keeper.join();
        }
    }
}

/// Renews leases and gives them back.
struct LeaseKeeper {
    link: Arc<PostgresLink>,
    table: String,
    server: String,
    leases: Arc<Mutex<HashMap<ConversationId, LeaseNumber>>>,
}

impl LeaseKeeper {
    fn run(self, inbox: &Receiver<(ConversationId, LeaseNumber)>) {
        let mut due = Instant::now() + RENEWED_EVERY;
        loop {
            let now = Instant::now();
            // However many leases are given back, the others are renewed in time.
            let done = if now >= due {
                due = now + RENEWED_EVERY;
                self.renew()
            } else {
                match inbox.recv_timeout(due - now) {
                    Ok((id, number)) => self.release(&id, number),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            if let Err(error) = done {
                tracing::warn!(%error, "leases of conversations cannot be kept");
            }
        }
    }

    fn release(&self, id: &ConversationId, number: LeaseNumber) -> Result<(), IndexError> {
        let statement = format!(
            "UPDATE {} SET holder = NULL WHERE id = $1 AND holder = $2 AND lease = $3",
            self.table
        );
        self.link.call(async |client| {
            client
                .execute(&statement, &[&id.as_str(), &self.server, &number])
                .await?;
            Ok(())
        })
    }

    fn renew(&self) -> Result<(), IndexError> {
        let leases = self.leases.lock();
        let ids: Vec<String> = leases.keys().map(ToString::to_string).collect();
        drop(leases);
        if ids.is_empty() {
            return Ok(());
        }
        let statement = format!(
            "UPDATE {} SET held_until = now() + $3::float8 * interval '1 s' \
             WHERE id = ANY($1) AND holder = $2",
            self.table
        );
        let seconds = LEASE.as_secs_f64();
        self.link.call(async |client| {
            client
                .execute(&statement, &[&ids, &self.server, &seconds])
                .await?;
            Ok(())
        })
    }
}

/// The condition that a server, given as a parameter, may write a row `t`.
fn not_elsewhere(server: &str) -> String {
    format!("(t.holder IS NULL OR t.holder = {server} OR t.held_until < now())")
}

/// A row's version, and its content if that is another version than the parameter `known`.
fn columns(known: &str) -> String {
    let other = format!("t.version IS DISTINCT FROM {known}::bigint");
    format!(
        "t.version, {other}, CASE WHEN {other} THEN t.record END, CASE WHEN {other} THEN t.log END"
    )
}

/// Reads [`columns`].
fn found(row: &Row) -> Result<Found, Error> {
    if !row.try_get::<_, bool>(1)? {
        return Ok(Found::Same);
    }
    Ok(Found::Other(SharedRow {
        version: row.try_get(0)?,
        record: row.try_get(2)?,
        log: row.try_get(3)?,
    }))
}

/// Makes the tables that are not there, and returns the salt. Servers that start at once wait for one another.
fn make_tables(link: &PostgresLink, table: &str) -> Result<[u8; SALT_BYTES], IndexError> {
    let statements = format!(
        "CREATE TABLE IF NOT EXISTS {table} (
             id text PRIMARY KEY,
             version bigint NOT NULL,
             written text NOT NULL,
             head bytea,
             record bytea NOT NULL,
             log bytea,
             documents text[] NOT NULL,
             holder text,
             lease bigint,
             held_until timestamptz,
             changed timestamptz NOT NULL DEFAULT now()
         );
         CREATE INDEX IF NOT EXISTS {table}_head ON {table} (head) WHERE head IS NOT NULL;
         CREATE INDEX IF NOT EXISTS {table}_documents ON {table} USING gin (documents);
         CREATE INDEX IF NOT EXISTS {table}_changed ON {table} (changed);
         CREATE TABLE IF NOT EXISTS {table}_salt (salt bytea NOT NULL)"
    );
    let fresh = new_salt();
    let begin =
        format!("INSERT INTO {table}_salt SELECT $1 WHERE NOT EXISTS (SELECT FROM {table}_salt)");
    let read = format!("SELECT salt FROM {table}_salt");
    let salt: Vec<u8> = link.call(async |client| {
        let transaction = client.transaction().await?;
        let lock = "SELECT pg_advisory_xact_lock(hashtext($1))";
        transaction.execute(lock, &[&table]).await?;
        transaction.batch_execute(&statements).await?;
        transaction.execute(&begin, &[&&fresh[..]]).await?;
        let salt = transaction.query_one(&read, &[]).await?.try_get(0)?;
        transaction.commit().await?;
        Ok(salt)
    })?;
    <[u8; SALT_BYTES]>::try_from(salt.as_slice()).map_err(|_| IndexError::Remote {
        address: link.address().to_string(),
        reason: format!("{table}_salt was not made by onegen"),
    })
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../../../index/tests/common/postgres.rs"]
#[allow(dead_code)]
mod postgres;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn change() -> SharedChange<'static> {
        SharedChange {
            known: None,
            head: None,
            record: b"record",
            log: None,
            documents: Vec::new(),
            releases: false,
        }
    }

    #[test]
    fn a_lease_is_renewed_however_often_others_are_given_back() {
        let Some(postgres) = postgres::Postgres::start() else {
            return;
        };
        let address = postgres.address("leases").parse().unwrap();
        let [here, there] = [0, 1].map(|_| SharedStore::open(&address).unwrap());
        let (long, short) = ("long".into(), "short".into());
        for id in [&long, &short] {
            assert_eq!(here.write(id, &change()).unwrap(), Some(1));
        }
        let taken = here.lease(&long, Some(1)).unwrap();
        assert!(matches!(taken, LeaseOutcome::Taken(_, Found::Same)));
        let end = Instant::now() + LEASE + RENEWED_EVERY;
        while Instant::now() < end {
            let LeaseOutcome::Taken(number, _) = here.lease(&short, Some(1)).unwrap() else {
                panic!("nobody else has it");
            };
            here.release(&short, number);
            thread::sleep(Duration::from_millis(100));
        }
        let elsewhere = there.lease(&long, Some(1)).unwrap();
        assert!(matches!(elsewhere, LeaseOutcome::Elsewhere(_)));
    }
}
