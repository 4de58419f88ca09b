//! A conversation as a list of items: its messages and its retrievals.

use std::ops::Range;

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::{
    ConversationItem, ConversationItemList, ItemAnnotation, ItemContent, MessageItem, OffsetUnit,
    RetrievalItem, Role as WireRole,
};

use crate::conversations::past_retrievals::PastRetrieval;
use crate::conversations::transcript::Transcript;
use crate::wire::citations::{CitedPassage, citations};

/// The value of `include` that adds the texts of passages to a list of items.
pub(crate) const PASSAGE_TEXT: &str = "onegen.retrieval.passage_text";

/// All items, the oldest first. Retrievals come before the message that they were made for.
/// `passage_text` returns the texts of the passages, if they are wanted.
pub(crate) fn items(
    id: &ConversationId,
    transcript: &Transcript,
    passage_text: impl Fn(&PastRetrieval) -> Option<String>,
) -> Vec<ConversationItem> {
    let name = name(id);
    let mut items = Vec::new();
    for (at, message) in transcript.messages.iter().enumerate() {
        let of_message = transcript.retrievals.iter().filter(|r| r.message == at);
        let of_message: Vec<&PastRetrieval> = of_message.collect();
        items.extend(of_message.iter().enumerate().map(|(nth, retrieval)| {
            ConversationItem::Retrieval(RetrievalItem {
                id: format!("rtr_{name}_{}_{nth}", transcript.number(at)),
                status: "completed".to_owned(),
                receipt: retrieval.receipt.clone(),
                passage_text: passage_text(retrieval),
            })
        }));
        let item = message_id(id, transcript.number(at));
        items.push(message_item(item, message, &of_message));
    }
    items
}

/// The messages in a range as items.
pub(crate) fn input_items(
    id: &ConversationId,
    transcript: &Transcript,
    range: Range<usize>,
) -> Vec<ConversationItem> {
    let messages = transcript.messages.iter().enumerate();
    let messages = messages.skip(range.start).take(range.len());
    messages
        .map(|(at, message)| {
            let item = message_id(id, transcript.number(at));
            message_item(item, message, &[])
        })
        .collect()
}

/// The id of the item of a conversation's message with this number.
pub(crate) fn message_id(id: &ConversationId, number: usize) -> String {
    format!("msg_{}_{number}", name(id))
}

/// The conversation and the number of the message that an item's id names.
pub(crate) fn conversation_of(item: &str) -> Option<(ConversationId, usize)> {
    let (name, message) = item.strip_prefix("msg_")?.rsplit_once('_')?;
    Some((format!("conv_{name}").into(), message.parse().ok()?))
}

/// The place of the message that an item of a conversation stands for.
pub(crate) fn message_of(
    id: &ConversationId,
    transcript: &Transcript,
    item: &str,
) -> Option<usize> {
    let (conversation, number) = conversation_of(item)?;
    (conversation == *id).then(|| transcript.place(number))?
}

/// An item's id is made from its conversation and its message's number, neither of which ever changes.
fn name(id: &ConversationId) -> &str {
    let name = id.as_str();
    name.strip_prefix("conv_").unwrap_or(name)
}

fn message_item(
    id: String,
    message: &ChatMessage,
    retrievals: &[&PastRetrieval],
) -> ConversationItem {
    ConversationItem::Message(MessageItem {
        id,
        status: "completed".to_owned(),
        role: match message.role {
            Role::System => WireRole::System,
            Role::User => WireRole::User,
            Role::Assistant => WireRole::Assistant,
        },
        content: vec![content(message, retrievals)],
    })
}

fn content(message: &ChatMessage, retrievals: &[&PastRetrieval]) -> ItemContent {
    let text = message.content.clone();
    if message.role != Role::Assistant {
        return ItemContent::InputText { text };
    }
    let read = retrievals.iter().filter_map(|retrieval| {
        let passage = retrieval.receipt.passages.first()?;
        Some(CitedPassage {
            char_offset: retrieval.char_offset,
            id: &passage.id,
            title: &passage.title,
            url: passage.url.as_deref(),
        })
    });
    let read: Vec<_> = read.collect();
    let citations = citations(&text, &read, OffsetUnit::Characters).into_iter();
    ItemContent::OutputText {
        text,
        annotations: citations.map(ItemAnnotation::UrlCitation).collect(),
    }
}

/// Items as they are listed.
pub(crate) fn list(items: Vec<ConversationItem>, has_more: bool) -> ConversationItemList {
    let id = |item: &ConversationItem| item.id().to_owned();
    ConversationItemList {
        object: "list".to_owned(),
        first_id: items.first().map(id),
        last_id: items.last().map(id),
        data: items,
        has_more,
    }
}
