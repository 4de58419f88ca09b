//! From an index in a directory to a collection in PostgreSQL.

use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::Client;
use pgvector::{HalfVector, Vector};
use tokio_postgres::Error;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::address::PostgresAddress;
use super::collection::{PostgresCollection, describe};
use super::link::Link;
use super::schema::{SHARED, column_type, indexes, tables, vector_type};
use super::statements::{SESSION, WRITTEN, WrittenPassage, check};
use crate::error::IndexError;
use crate::live::index::Index;
use crate::remote::calls::{RemoteOptions, fault};
use crate::remote::description::Description;
use crate::remote::pushing::{PushProgress, Target, WithVectors, begun_by, push_passages};

/// How long a batch may take.
const BATCH_DEADLINE: Duration = Duration::from_secs(120);
/// How long building a graph may take.
const GRAPH_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// See [`crate::push`].
pub(in crate::remote) fn push(
    index: &Index,
    address: &PostgresAddress,
    options: RemoteOptions,
    mut on_progress: impl FnMut(PushProgress),
) -> Result<PostgresCollection, IndexError> {
    let link = Link::new(address, options, SESSION)?;
    let dimension = index.manifest().dimension;
    let column = column_type(dimension).map_err(|reason| fault(address, reason))?;
    let remedy =
        "choose another table, or drop the tables of this one and its line in onegen_collections";
    let description = match begun_by(index, address, describe(&link)?, remedy)? {
        Some(description) => description,
        None => {
            let description = Description::of(index);
            create(&link, &description, &column)?;
            description
        }
    };
    let mut description = push_passages(index, &link, address, description, &mut on_progress)?;
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
    PostgresCollection::open(address, options)
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
                .execute(statement, &[table, &description.as_json()])
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
        .execute(statement, &[table, &description.as_json()])
        .await?;
    Ok(())
}

impl Target for Link {
    /// Both in one transaction.
    fn write(&self, batch: &[WithVectors], description: &Description) -> Result<(), IndexError> {
        batch.iter().try_for_each(|(passage, _)| check(passage))?;
        self.call_within(BATCH_DEADLINE, async |client| {
            write_batch(client, &self.address().table, batch, description).await
        })
    }
}

async fn write_batch(
    client: &mut Client,
    table: &String,
    batch: &[WithVectors],
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
