//! A conversation as a list of items: what was said, and what was read for it.

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::{
    ConversationItem, ItemAnnotation, ItemContent, MessageItem, RetrievalItem, Role as WireRole,
};

use crate::citations::{Read, citations};
use crate::conversations::Transcript;
use crate::past_retrievals::PastRetrieval;

/// All items, the first first. Retrievals stand before the message that they were made for;
/// `passage_text` gives the texts that were read, where they are wanted.
pub(crate) fn items(
    id: &ConversationId,
    transcript: &Transcript,
    passage_text: impl Fn(&PastRetrieval) -> Option<String>,
) -> Vec<ConversationItem> {
    // Items are called after their conversation and their place, which never change.
    let name = id.as_str();
    let name = name.strip_prefix("conv_").unwrap_or(name);
    let mut items = Vec::new();
    for (at, message) in transcript.messages.iter().enumerate() {
        let of_message = transcript.retrievals.iter().filter(|r| r.message == at);
        let of_message: Vec<&PastRetrieval> = of_message.collect();
        items.extend(of_message.iter().enumerate().map(|(nth, retrieval)| {
            ConversationItem::Retrieval(RetrievalItem {
                id: format!("rtr_{name}_{at}_{nth}"),
                status: "completed".to_owned(),
                receipt: retrieval.receipt.clone(),
                passage_text: passage_text(retrieval),
            })
        }));
        items.push(ConversationItem::Message(MessageItem {
            id: format!("msg_{name}_{at}"),
            status: "completed".to_owned(),
            role: match message.role {
                Role::System => WireRole::System,
                Role::User => WireRole::User,
                Role::Assistant => WireRole::Assistant,
            },
            content: vec![content(message, &of_message)],
        }));
    }
    items
}

fn content(message: &ChatMessage, retrievals: &[&PastRetrieval]) -> ItemContent {
    let text = message.content.clone();
    if message.role != Role::Assistant {
        return ItemContent::InputText { text };
    }
    let read = retrievals.iter().filter_map(|retrieval| {
        let passage = retrieval.receipt.passages.first()?;
        Some(Read {
            char_offset: retrieval.char_offset,
            id: &passage.id,
            title: &passage.title,
            url: passage.url.as_deref(),
        })
    });
    let read: Vec<_> = read.collect();
    let citations = citations(&text, &read).into_iter();
    ItemContent::OutputText {
        text,
        annotations: citations.map(ItemAnnotation::UrlCitation).collect(),
    }
}
