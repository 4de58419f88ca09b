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
use std::time::Duration;

use onegen_engine::ConversationId;
use onegen_index::{IndexError, Link, RemoteAddress, RemoteOptions, RemoteStats};
use parking_lot::Mutex;
use uuid::Uuid;

use super::recognise::{Digest, SALT_BYTES};

/// How long a lease holds after it was taken or renewed: so long nobody goes on with a conversation whose server
/// was killed during a turn of it.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
const RENEWED_EVERY: Duration = Duration::from_millis(1500);

/// What connections are set to: every statement is planned for its own parameters.
const SESSION: &str = "SET plan_cache_mode = force_custom_plan";

/// Of rows that one server may write, as conditions on a row `t`: `$1` is the server.
const NOT_ELSEWHERE: &str = "(t.holder IS NULL OR t.holder = $1 OR t.held_until < now())";

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
    link: Arc<Link>,
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
    pub(crate) fn open(address: &RemoteAddress) -> Result<Self, IndexError> {
        let link = Arc::new(Link::new(address, RemoteOptions::default(), SESSION)?);
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
    pub(crate) fn address(&self) -> &RemoteAddress {
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
             WHERE t.id = $4 AND {NOT_ELSEWHERE} RETURNING {}",
            self.table,
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
        if leases.get(id) == Some(&number) {
            leases.remove(id);
        }
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
        let insert = format!(
            "INSERT INTO {0} AS t (id, version, written, head, record, log, documents) \
             VALUES ($1, 1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO NOTHING RETURNING version",
            self.table
        );
        let update = format!(
            "UPDATE {0} t SET version = t.version + 1, written = $3, head = $4, record = $5, log = $6, \
             documents = $7, changed = now(), holder = CASE WHEN $9 THEN NULL ELSE t.holder END \
             WHERE t.id = $2 AND t.version = $8 AND {NOT_ELSEWHERE} RETURNING version",
            self.table
        );
        // A call that is made again may have taken effect unseen: the row then has this mark.
        let mark = Uuid::new_v4().simple().to_string();
        let seen = format!(
            "SELECT version FROM {} WHERE id = $1 AND written = $2",
            self.table
        );
        let head = change.head.map(|head| head.as_bytes().to_vec());
        self.link.call(async |client| {
            let row = if change.known.is_some() {
                client
                    .query_opt(
                        &update,
                        &[
                            &self.server,
                            &id.as_str(),
                            &mark,
                            &head,
                            &change.record,
                            &change.log,
                            &change.documents,
                            &change.known,
                            &change.releases,
                        ],
                    )
                    .await?
            } else {
                client
                    .query_opt(
                        &insert,
                        &[
                            &id.as_str(),
                            &mark,
                            &head,
                            &change.record,
                            &change.log,
                            &change.documents,
                        ],
                    )
                    .await?
            };
            let row = match row {
                Some(row) => Some(row),
                None => client.query_opt(&seen, &[&id.as_str(), &mark]).await?,
            };
            row.map(|row| row.try_get(0)).transpose()
        })
    }

    /// Deletes a conversation, unless another server has its lease. Returns whether it is gone.
    pub(super) fn remove(&self, id: &ConversationId) -> Result<bool, IndexError> {
        let delete = format!(
            "DELETE FROM {} t WHERE t.id = $2 AND {NOT_ELSEWHERE}",
            self.table
        );
        let look = format!("SELECT FROM {} WHERE id = $1", self.table);
        self.link.call(async |client| {
            client
                .execute(&delete, &[&self.server, &id.as_str()])
                .await?;
            Ok(client.query_opt(&look, &[&id.as_str()]).await?.is_none())
        })
    }

    /// The conversations whose whole transcripts have these digests.
    pub(super) fn with_heads(
        &self,
        heads: &[Digest],
    ) -> Result<Vec<(Digest, ConversationId)>, IndexError> {
        let heads: Vec<Vec<u8>> = heads.iter().map(|head| head.as_bytes().to_vec()).collect();
        let statement = format!(
            "SELECT head, id FROM {} WHERE head = ANY($1) ORDER BY changed DESC LIMIT 16",
            self.table
        );
        let rows = self.link.call(async |client| {
            let rows = client.query(&statement, &[&heads]).await?;
            let pair = |row: &tokio_postgres::Row| {
                Ok((row.try_get::<_, Vec<u8>>(0)?, row.try_get::<_, String>(1)?))
            };
            rows.iter().map(pair).collect::<Result<Vec<_>, _>>()
        })?;
        let pairs = rows.into_iter().filter_map(|(head, id)| {
            let head = <[u8; 32]>::try_from(head.as_slice()).ok()?;
            Some((Digest::from_bytes(head), id.into()))
        });
        Ok(pairs.collect())
    }

    /// Deletes the token logs that hold any of these documents; transcripts stay. Returns of how many
    /// conversations.
    pub(super) fn forget_logs(&self, documents: &[String]) -> Result<u64, IndexError> {
        let statement = format!(
            "UPDATE {} SET log = NULL, documents = '{{}}' WHERE documents && $1",
            self.table
        );
        self.link
            .call(async |client| client.execute(&statement, &[&documents]).await)
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
    link: Arc<Link>,
    table: String,
    server: String,
    leases: Arc<Mutex<HashMap<ConversationId, LeaseNumber>>>,
}

impl LeaseKeeper {
    fn run(self, inbox: &Receiver<(ConversationId, LeaseNumber)>) {
        loop {
            let done = match inbox.recv_timeout(RENEWED_EVERY) {
                Ok((id, number)) => self.release(&id, number),
                Err(RecvTimeoutError::Timeout) => self.renew(),
                Err(RecvTimeoutError::Disconnected) => return,
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
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&id.as_str(), &self.server, &number];
            client.execute(&statement, &parameters).await.map(|_| ())
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
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&ids, &self.server, &seconds];
            client.execute(&statement, &parameters).await.map(|_| ())
        })
    }
}

/// A row's version, and its content if that is another version than the parameter `known`.
fn columns(known: &str) -> String {
    let other = format!("t.version IS DISTINCT FROM {known}::bigint");
    format!(
        "t.version, {other}, CASE WHEN {other} THEN t.record END, CASE WHEN {other} THEN t.log END"
    )
}

/// Reads [`columns`].
fn found(row: &tokio_postgres::Row) -> Result<Found, tokio_postgres::Error> {
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
fn make_tables(link: &Link, table: &str) -> Result<[u8; SALT_BYTES], IndexError> {
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
    let mut fresh = Uuid::new_v4().as_bytes().to_vec();
    fresh.extend_from_slice(Uuid::new_v4().as_bytes());
    let begin =
        format!("INSERT INTO {table}_salt SELECT $1 WHERE NOT EXISTS (SELECT FROM {table}_salt)");
    let read = format!("SELECT salt FROM {table}_salt");
    let salt: Vec<u8> = link.call(async |client| {
        let transaction = client.transaction().await?;
        let lock = "SELECT pg_advisory_xact_lock(hashtext($1))";
        transaction.execute(lock, &[&table]).await?;
        transaction.batch_execute(&statements).await?;
        transaction.execute(&begin, &[&fresh]).await?;
        let salt = transaction.query_one(&read, &[]).await?.try_get(0)?;
        transaction.commit().await?;
        Ok(salt)
    })?;
    <[u8; SALT_BYTES]>::try_from(salt.as_slice()).map_err(|_| IndexError::Remote {
        address: link.address().to_string(),
        reason: format!("{table}_salt was not made by onegen"),
    })
}
