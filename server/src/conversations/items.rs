//! A conversation as a list of items: its messages and its retrievals.

use std::ops::Range;

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::{
    ConversationItem, ConversationItemList, ItemAnnotation, ItemContent, MessageItem,
    RetrievalItem, Role as WireRole,
};

use crate::conversations::past_retrievals::PastRetrieval;
use crate::conversations::transcript::Transcript;
use crate::wire::citations::{CitedPassage, citations};
use crate::wire::errors::ApiError;

/// OpenAI's value.
const DEFAULT_PAGE: usize = 20;
/// OpenAI's value.
const MAX_PAGE: usize = 100;

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
                id: format!("rtr_{name}_{at}_{nth}"),
                status: "completed".to_owned(),
                receipt: retrieval.receipt.clone(),
                passage_text: passage_text(retrieval),
            })
        }));
        items.push(message_item(id, at, message, &of_message));
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
        .map(|(at, message)| message_item(id, at, message, &[]))
        .collect()
}

/// The id of the item of a conversation's message.
pub(crate) fn message_id(id: &ConversationId, message: usize) -> String {
    format!("msg_{}_{message}", name(id))
}

/// The conversation and the number of the message that an item's id names.
pub(crate) fn conversation_of(item: &str) -> Option<(ConversationId, usize)> {
    let (name, message) = item.strip_prefix("msg_")?.rsplit_once('_')?;
    Some((format!("conv_{name}").into(), message.parse().ok()?))
}

/// The number of the message that an item stands for.
pub(crate) fn message_of(id: &ConversationId, item: &str) -> Option<usize> {
    let (conversation, message) = conversation_of(item)?;
    (conversation == *id).then_some(message)
}

/// An item's id is made from its conversation and its place, neither of which ever changes.
fn name(id: &ConversationId) -> &str {
    let name = id.as_str();
    name.strip_prefix("conv_").unwrap_or(name)
}

fn message_item(
    id: &ConversationId,
    at: usize,
    message: &ChatMessage,
    retrievals: &[&PastRetrieval],
) -> ConversationItem {
    ConversationItem::Message(MessageItem {
        id: message_id(id, at),
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
    let citations = citations(&text, &read).into_iter();
    ItemContent::OutputText {
        text,
        annotations: citations.map(ItemAnnotation::UrlCitation).collect(),
    }
}

/// Whether a query's `include` names `what`. All of these ways to write a list are in use by
/// clients.
pub(crate) fn is_included(query: &[(String, String)], what: &str) -> bool {
    let mut included = query
        .iter()
        .filter(|(name, _)| name == "include" || name.starts_with("include["));
    included.any(|(_, value)| value.split(',').any(|one| one == what))
}

/// The part of the list that a request asks for.
pub(crate) struct Page {
    after: Option<String>,
    limit: usize,
    ascending: bool,
    /// Whether the texts of the passages that were read are wanted.
    pub(crate) passage_texts: bool,
}

impl Page {
    /// # Errors
    /// [`ApiError::Invalid`] names the parameter at fault.
    pub(crate) fn new(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut page = Self {
            after: None,
            limit: DEFAULT_PAGE,
            ascending: false,
            passage_texts: false,
        };
        page.passage_texts = is_included(&query, PASSAGE_TEXT);
        for (name, value) in query {
            match name.as_str() {
                "after" => page.after = Some(value).filter(|id| !id.is_empty()),
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=MAX_PAGE).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let message = format!("is {value:?}, but must be between 1 and {MAX_PAGE}");
                        ApiError::invalid("limit", message)
                    })?;
                }
                "order" => {
                    page.ascending = match value.as_str() {
                        "asc" => true,
                        "desc" => false,
                        _ => {
                            let message = format!("is {value:?}, but must be asc or desc");
                            return Err(ApiError::invalid("order", message));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// Selects the page from all items, which are given in order.
    ///
    /// # Errors
    /// The item after which the page should begin does not exist.
    pub(crate) fn cut(
        self,
        mut items: Vec<ConversationItem>,
    ) -> Result<ConversationItemList, ApiError> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(item) = self.after {
            let at = items.iter().position(|one| one.id() == item);
            let param = "after";
            let at = at.ok_or(ApiError::ItemNotFound { item, param })?;
            items.drain(..=at);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        Ok(list(items, has_more))
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
