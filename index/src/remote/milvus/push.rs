//! From an index in a directory to a collection in Milvus.

use std::thread;
use std::time::{Duration, Instant};

use super::address::MilvusAddress;
use super::changes::RowWriter;
use super::collection::{MilvusCollection, describe, load};
use super::link::Link;
use super::messages::{DescribeIndexRequest, FlushRequest};
use super::schema::{check_width, creation, graph, note};
use crate::error::IndexError;
use crate::live::index::Index;
use crate::remote::calls::{RemoteOptions, fault};
use crate::remote::description::Description;
use crate::remote::pushing::{PushProgress, Target, WithVectors, begun_by, push_passages};

/// How long a call may take: nobody waits for a push as for an answer, and Milvus slows writers down while it has much
/// to do.
const STEP: Duration = Duration::from_secs(120);
/// How long building a graph may take.
const GRAPH_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between two looks whether the graph is built.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See [`crate::push`].
pub(in crate::remote) fn push(
    index: &Index,
    address: &MilvusAddress,
    options: RemoteOptions,
    mut on_progress: impl FnMut(PushProgress),
) -> Result<MilvusCollection, IndexError> {
    let patient = RemoteOptions {
        deadline: STEP,
        ..options
    };
    let link = Link::new(address, patient)?;
    let dimension = index.manifest().dimension;
    check_width(dimension).map_err(|reason| fault(address, reason))?;
    let remedy = "choose another name, or drop the collection in Milvus";
    let description = match begun_by(index, address, describe(&link)?, remedy)? {
        Some(description) => description,
        None => {
            let description = Description::of(index);
            link.call(&creation(address, &description))?;
            description
        }
    };
    // Milvus takes rows into its memory, where searches find them, only of a collection with an index.
    link.call(&graph(address, index.manifest().graph))?;
    load(&link)?;
    let mut description = push_passages(index, &link, address, description, &mut on_progress)?;
    on_progress(PushProgress::Graph);
    build_graph(&link, index.stats().vectors)?;
    description.complete = true;
    // Twice: Milvus 2.3.5 answers with what was written last, but after a restart with what was written before that.
    let note = note(address, &description);
    link.call(&note)?;
    link.call(&note)?;
    MilvusCollection::open(address, options)
}

impl Target for Link {
    fn write(&self, batch: &[WithVectors], description: &Description) -> Result<(), IndexError> {
        let dimension = description.dimension as usize;
        let mut writer = RowWriter::new(self, dimension);
        let first = description.pushed - batch.len() as u64;
        for (sequence, (passage, vectors)) in (first as i64..).zip(batch) {
            writer.push(passage, sequence, vectors.iter().map(Vec::as_slice))?;
        }
        writer.finish()?;
        // With a restart this is lost until the next batch's is written. Then a batch is pushed once more.
        self.call(&note(self.address(), description))?;
        Ok(())
    }
}

/// Has Milvus write its rows to segments, and waits until so many vectors are in graphs.
fn build_graph(link: &Link, vectors: u64) -> Result<(), IndexError> {
    let address = link.address();
    let flush = FlushRequest {
        db_name: address.database.clone(),
        collection_names: vec![address.collection.clone()],
    };
    link.call(&flush)?;
    let end = Instant::now() + GRAPH_DEADLINE;
    loop {
        let request = DescribeIndexRequest {
            db_name: address.database.clone(),
            collection_name: address.collection.clone(),
        };
        let indexes = link.call(&request)?.index_descriptions;
        let indexed: i64 = indexes.iter().map(|index| index.indexed_rows).sum();
        if indexed.unsigned_abs() >= vectors {
            return Ok(());
        }
        if Instant::now() > end {
            let reason = format!("only {indexed} of {vectors} vectors are in a graph");
            return Err(fault(address, reason));
        }
        thread::sleep(LOOK_EVERY);
    }
}
