//! From an index in a directory to a collection in a database.

use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::Client;
use pgvector::{HalfVector, Vector};
use tokio_postgres::Error;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::address::RemoteAddress;
use super::collection::{RemoteCollection, describe};
use super::link::{Link, RemoteOptions};
use super::schema::{Description, SHARED, VERSION, column_type, indexes, tables, vector_type};
use super::statements::{SESSION, WRITTEN, WrittenPassage, check};
use crate::error::IndexError;
use crate::format::unix_seconds;
use crate::live::index::Index;
use crate::segment::passages::Passage;

/// Passages of a transaction.
const BATCH: usize = 1_000;
/// How long a batch may take.
const BATCH_DEADLINE: Duration = Duration::from_secs(120);
/// How long building a graph may take.
const GRAPH_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a push is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushProgress {
    /// So many passages are in the table, of so many.
    Passages(u64, u64),
    /// The passages are there and their graph is built.
    Graph,
}

/// Puts the passages of an index into a table that does not exist yet, with their vectors as they are, and builds a
/// graph over them. A push that was interrupted goes on when the same index is pushed again.
///
/// # Errors
/// [`IndexError::Remote`] if the table holds something else, the vectors are wider than pgvector can index, or the
/// database cannot store a passage; [`IndexError::Unreachable`]; those of reading the index.
pub fn push(
    index: &Index,
    address: &RemoteAddress,
    options: RemoteOptions,
    mut on_progress: impl FnMut(PushProgress),
) -> Result<RemoteCollection, IndexError> {
    let link = Link::new(address, options, SESSION)?;
    let fault = |reason: String| address.fault(reason);
    let dimension = index.manifest().dimension;
    let column = column_type(dimension).map_err(fault)?;
    let source = index.manifest().index_id.clone();
    let description = match describe(&link)? {
        None => {
            let description = Description {
                version: VERSION,
                created_unix_seconds: unix_seconds(),
                dimension,
                fingerprints: index.fingerprints().clone(),
                documents: index.document_rules(),
                source,
                pushed: 0,
                complete: false,
            };
            create(&link, &description, &column)?;
            description
        }
        Some(there) if there.source == source && !there.complete => there,
        Some(there) => {
            let reason = match there.complete {
                true => "it holds a collection already",
                false => "it holds a part of another index",
            };
            let remedy = "choose another table, or drop the tables of this one and its line in onegen_collections";
            return Err(fault(format!("{reason}; {remedy}")));
        }
    };
    let mut pushing = Pushing {
        link: &link,
        total: index.passages(),
        description,
        batch: Vec::new(),
        read: 0,
    };
    index.for_each(|passage, vectors| {
        pushing.take(passage, vectors)?;
        if pushing.batch.is_empty() {
            on_progress(PushProgress::Passages(pushing.read, pushing.total));
        }
        Ok::<_, IndexError>(())
    })?;
    pushing.flush()?;
    let Pushing {
        read,
        total,
        mut description,
        ..
    } = pushing;
    if description.pushed != read {
        return Err(fault(format!(
            "{} passages were pushed before, and the index has {read} now; drop the tables and push again",
            description.pushed
        )));
    }
    on_progress(PushProgress::Passages(read, total));
    on_progress(PushProgress::Graph);
    let bytes = u64::from(dimension) * 4 + 600;
    let vectors = index.stats().vectors;
    let memory = (vectors * bytes / (1 << 20) + 64).min(options.graph_memory_mb);
    for statement in indexes(&address.table, dimension, index.manifest().graph) {
        link.call_within(GRAPH_DEADLINE, async |client| {
            let set = format!("SET maintenance_work_mem = '{memory}MB'");
            client.batch_execute(&set).await?;
            client.batch_execute(&statement).await?;
            client.batch_execute("RESET maintenance_work_mem").await
        })?;
    }
    description.complete = true;
    link.call(async |client| note(client, &address.table, &description).await)?;
    RemoteCollection::open(address, options)
}

fn create(link: &Link, description: &Description, column: &str) -> Result<(), IndexError> {
    let table = &link.address().table;
    link.call(async |client| {
        let transaction = client.transaction().await?;
        transaction.batch_execute(SHARED).await?;
        // A try whose answer was lost may have made them.
        let statement = "SELECT FROM onegen_collections WHERE name = $1";
        if transaction.query_opt(statement, &[table]).await?.is_none() {
            transaction.batch_execute(&tables(table, column)).await?;
            let statement = "INSERT INTO onegen_collections VALUES ($1, $2)";
            transaction
                .execute(statement, &[table, &as_json(description)])
                .await?;
        }
        transaction.commit().await
    })
}

/// Writes down how far a push is.
async fn note(
    client: &impl deadpool_postgres::GenericClient,
    table: &String,
    description: &Description,
) -> Result<(), Error> {
    let statement = "UPDATE onegen_collections SET description = $2 WHERE name = $1";
    client
        .execute(statement, &[table, &as_json(description)])
        .await?;
    Ok(())
}

fn as_json(description: &Description) -> serde_json::Value {
    // Its fields are strings, numbers and booleans.
    serde_json::to_value(description).unwrap_or_default()
}

/// A push on its way.
struct Pushing<'p> {
    link: &'p Link,
    total: u64,
    description: Description,
    batch: Vec<(Passage, Vec<Vec<f32>>)>,
    /// Passages that were read, of which the last ones are in the batch.
    read: u64,
}

impl Pushing<'_> {
    fn take(&mut self, passage: &Passage, vectors: &[&[f32]]) -> Result<(), IndexError> {
        self.read += 1;
        // It was pushed before.
        if self.read <= self.description.pushed {
            return Ok(());
        }
        check(passage)?;
        let vectors = vectors.iter().map(|vector| vector.to_vec()).collect();
        self.batch.push((passage.clone(), vectors));
        if self.batch.len() == BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Pushes the batch in one transaction, together with the number of passages that are there then.
    fn flush(&mut self) -> Result<(), IndexError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let link = self.link;
        let (batch, mut description) = (&self.batch, self.description.clone());
        description.pushed = self.read;
        link.call_within(BATCH_DEADLINE, async |client| {
            write_batch(client, &link.address().table, batch, &description).await
        })?;
        self.description = description;
        self.batch.clear();
        Ok(())
    }
}

async fn write_batch(
    client: &mut Client,
    table: &String,
    batch: &[(Passage, Vec<Vec<f32>>)],
    description: &Description,
) -> Result<(), Error> {
    let column = vector_type(description.dimension);
    let transaction = client.transaction().await?;
    // A try whose answer was lost may have written the batch.
    let statement = "SELECT description FROM onegen_collections WHERE name = $1 FOR UPDATE";
    let noted: serde_json::Value = transaction
        .query_one(statement, &[table])
        .await?
        .try_get(0)?;
    if noted["pushed"].as_u64() == Some(description.pushed) {
        return transaction.commit().await;
    }
    let copy = format!("COPY {table} ({WRITTEN}) FROM STDIN BINARY");
    let text = Type::TEXT;
    let types = [
        text.clone(),
        text.clone(),
        Type::INT8,
        Type::INT8,
        text.clone(),
        text.clone(),
        text,
        Type::JSON,
        Type::BYTEA_ARRAY,
    ];
    let mut writer = pin!(BinaryCopyInWriter::new(
        transaction.copy_in(&copy).await?,
        &types
    ));
    for (passage, _) in batch {
        writer
            .as_mut()
            .write(&WrittenPassage::new(passage).columns())
            .await?;
    }
    writer.finish().await?;

    // The type's number is another one in each database.
    let statement = transaction.prepare(&format!("SELECT $1::{column}")).await?;
    let vector_type = statement.params().first().cloned().unwrap_or(Type::UNKNOWN);
    let copy = format!("COPY {table}_vectors (passage, part, embedding) FROM STDIN BINARY");
    let types = [Type::TEXT, Type::INT4, vector_type];
    let mut writer = pin!(BinaryCopyInWriter::new(
        transaction.copy_in(&copy).await?,
        &types
    ));
    for (passage, vectors) in batch {
        for (part, vector) in (0i32..).zip(vectors) {
            let embedding: Box<dyn ToSql + Sync> = if column == "halfvec" {
                Box::new(HalfVector::from_f32_slice(vector))
            } else {
                Box::new(Vector::from(vector.clone()))
            };
            let columns: [&(dyn ToSql + Sync); 3] = [&passage.id, &part, embedding.as_ref()];
            writer.as_mut().write(&columns).await?;
        }
    }
    writer.finish().await?;
    note(&transaction, table, description).await?;
    transaction.commit().await
}
