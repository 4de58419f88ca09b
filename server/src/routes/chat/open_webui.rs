//! What Open WebUI shows beside an answer: events between OpenAI's chunks.

use onegen_engine::RetrievalReceipt;
use onegen_proto::{OpenWebUiChunk, OpenWebUiEvent, OpenWebUiMetadata, OpenWebUiSource};

use crate::wire::citations::{passage_name, passage_url};

/// A line that says what was read, and the passage itself.
pub(super) fn chunks(receipt: &RetrievalReceipt) -> Vec<OpenWebUiChunk> {
    let Some(passage) = receipt.passages.first() else {
        return Vec::new();
    };
    let name = passage_name(&passage.id, &passage.title).to_owned();
    let url = passage.url.clone();
    let events = [
        OpenWebUiEvent::Status {
            description: format!("Read {name:?}"),
            done: true,
        },
        OpenWebUiEvent::Source {
            source: OpenWebUiSource {
                name: name.clone(),
                url: url.clone(),
            },
            document: vec![passage.text.clone()],
            metadata: vec![OpenWebUiMetadata {
                source: url.unwrap_or_else(|| passage_url(&passage.id)),
                name,
            }],
        },
    ];
    events.map(|event| OpenWebUiChunk { event }).into()
}
