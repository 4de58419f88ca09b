//! What a conversation has read, and whether it still may be answered from.
//!
//! The passages stand in the engine's token log and KV-cache. Nobody marks a conversation when a
//! document goes: before each turn what it has read is compared with what its collection holds now.
//! So it makes no difference when a document was deleted or changed, by whom, or whether the server
//! was running.

use onegen_engine::RetrievalReceipt;
use onegen_index::IndexError;
use onegen_proto::Receipt;
use serde::{Deserialize, Serialize};

use crate::collections::{Collection, Collections};
use crate::wire::citations::receipt;

/// A retrieval of an earlier turn, and the passage that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastRetrieval {
    /// Which of the transcript's messages it was made for, from 0.
    pub(crate) message: usize,
    /// The receipt that the client has seen.
    pub(crate) receipt: Receipt,
    /// Where in that message's text the retrieval happened, in characters.
    pub(crate) char_offset: usize,
    /// The document that the passage is, or is a part of.
    pub(crate) document: String,
    /// blake3 of the passage's title and text, hexadecimal.
    digest: String,
    /// Whether the passage is in the engine's log. Not once the conversation was begun again from its
    /// visible messages.
    pub(crate) held: bool,
}

impl PastRetrieval {
    /// A retrieval of the turn that has just written message `message`. Reads the index. `None` for
    /// a receipt without a passage, of which there is none.
    pub(crate) fn new(
        of_engine: &RetrievalReceipt,
        collection: &Collection,
        message: usize,
    ) -> Option<Self> {
        let read = of_engine.passages.first()?;
        // One that has just gone, or cannot be read, is noticed when the conversation goes on.
        let stored = collection.index().get(&read.id).ok().flatten();
        let document = stored.as_ref().map_or(&*read.id, |p| p.document_id());
        Some(Self {
            message,
            receipt: receipt(of_engine, collection.name()),
            char_offset: of_engine.char_offset,
            document: document.to_owned(),
            digest: digest(&read.title, &read.text),
            held: true,
        })
    }

    /// The text that was read, if the collection still holds it as it was. Reads the index.
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
        let stored = collection.index().get(&passage.id)?;
        let same = stored.filter(|stored| digest(&stored.title, &stored.text) == self.digest);
        Ok(same.map(|stored| stored.text))
    }
}

/// Documents that these retrievals hold passages of, and that are not what they were: deleted,
/// changed, or in a collection that is not served any more. Each once. Reads the index.
///
/// # Errors
/// The index is damaged.
pub(crate) fn gone(
    retrievals: &[PastRetrieval],
    collections: &Collections,
) -> Result<Vec<String>, IndexError> {
    let mut gone = Vec::new();
    for retrieval in retrievals.iter().filter(|retrieval| retrieval.held) {
        if !gone.contains(&retrieval.document) && retrieval.text(collections)?.is_none() {
            gone.push(retrieval.document.clone());
        }
    }
    Ok(gone)
}

fn digest(title: &str, text: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    // The length keeps title and text apart.
    hasher.update(&(title.len() as u64).to_le_bytes());
    hasher.update(title.as_bytes());
    hasher.update(text.as_bytes());
    hasher.finalize().to_hex().to_string()
}
