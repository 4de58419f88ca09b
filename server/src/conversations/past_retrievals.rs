//! The passages that a conversation has read, and whether it may still answer from them.
//!
//! The passages are in the engine's token log and KV-cache. A deletion does not mark conversations.
//! Instead, before each turn the passages that were read are compared with what the collection
//! holds now. So it does not matter when or by whom a document was deleted or changed, or whether
//! the server was running.

use onegen_engine::{RetrievalReceipt, passage_digest};
use onegen_index::{Filter, IndexError};
use onegen_proto::Receipt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::collections::{Collection, Collections};
use crate::wire::citations::receipt;

/// A retrieval of an earlier turn, and the passage that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastRetrieval {
    /// The number of the message that it was made for, from 0.
    pub(crate) message: usize,
    /// The receipt that the client has seen.
    pub(crate) receipt: Receipt,
    /// Where in that message's text the retrieval happened, in characters.
    pub(crate) char_offset: usize,
    /// The id of the document that the passage belongs to.
    pub(crate) document: String,
    /// blake3 of the passage's title and text, hexadecimal.
    digest: String,
    /// What the metadata of passages had to be, as the request said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<Value>,
    /// Whether the passage is in the engine's log. It is not if the conversation has begun again from
    /// its visible messages.
    pub(crate) held: bool,
}

impl PastRetrieval {
    /// A retrieval of the turn that has just written message `message`. Reads the index. Returns
    /// `None` for a receipt without a passage, which does not occur.
    pub(crate) fn new(
        of_engine: &RetrievalReceipt,
        collection: &Collection,
        filter: Option<&Value>,
        message: usize,
    ) -> Option<Self> {
        let read = of_engine.passages.first()?;
        // A passage that was just deleted, or cannot be read, is noticed when the conversation
        // continues.
        let stored = collection.store().get(&read.id).ok().flatten();
        let document = stored.as_ref().map_or(&*read.id, |p| p.document_id());
        Some(Self {
            message,
            receipt: receipt(of_engine, collection.name()),
            char_offset: of_engine.char_offset,
            document: document.to_owned(),
            digest: digest(&read.title, &read.text),
            filter: filter.cloned(),
            held: true,
        })
    }

    /// The text that was read, if the collection still holds it as it was, with metadata that the request
    /// asked for. Reads the index.
    ///
    /// # Errors
    /// The index is damaged.
    pub(crate) fn text(&self, collections: &Collections) -> Result<Option<String>, IndexError> {
        let Some(passage) = self.receipt.passages.first() else {
            return Ok(None);
        };
        let name = &self.receipt.collection;
        let Some(collection) = collections.iter().find(|c| c.name() == name) else {
            return Ok(None);
        };
        let stored = collection.store().get(&passage.id)?;
        let same = stored.filter(|stored| {
            let wanted = self.filter.as_ref().map(Filter::from_json);
            digest(&stored.title, &stored.text) == self.digest
                && wanted.is_none_or(|wanted| {
                    wanted.is_ok_and(|wanted| wanted.matches(stored.metadata.as_ref()))
                })
        });
        Ok(same.map(|stored| stored.text))
    }
}

/// What is listed in place of a document that its reader may not know of any more.
const UNSEEN: &str = "(of a collection that this key does not see)";

/// Documents whose passages these retrievals have read and that are no longer the same: deleted,
/// changed, in a collection that is no longer served, or in one that `sees` is false for. Each document
/// is listed once. Reads the index.
///
/// # Errors
/// The index is damaged.
pub(crate) fn gone(
    retrievals: &[PastRetrieval],
    collections: &Collections,
    sees: impl Fn(&str) -> bool,
) -> Result<Vec<String>, IndexError> {
    let mut gone = Vec::new();
    for retrieval in retrievals.iter().filter(|retrieval| retrieval.held) {
        if !sees(&retrieval.receipt.collection) {
            if !gone.iter().any(|document| document == UNSEEN) {
                gone.push(UNSEEN.to_owned());
            }
        } else if !gone.contains(&retrieval.document) && retrieval.text(collections)?.is_none() {
            gone.push(retrieval.document.clone());
        }
    }
    Ok(gone)
}

fn digest(title: &str, text: &str) -> String {
    passage_digest(title, text).to_hex().to_string()
}
