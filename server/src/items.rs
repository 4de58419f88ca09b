//! A conversation as a list of items: what was said, and what was read for it.

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::{
    ConversationItem, ConversationItemList, ItemAnnotation, ItemContent, MessageItem,
    RetrievalItem, Role as WireRole,
};

use crate::citations::{Read, citations};
use crate::conversations::Transcript;
use crate::errors::ApiError;
use crate::past_retrievals::PastRetrieval;

/// OpenAI's.
const DEFAULT_PAGE: usize = 20;
/// OpenAI's.
const MAX_PAGE: usize = 100;

/// What adds passages' texts to a list of items.
const PASSAGE_TEXT: &str = "onegen.retrieval.passage_text";

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

/// Which items are asked for.
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
    pub(crate) fn of(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut page = Self {
            after: None,
            limit: DEFAULT_PAGE,
            ascending: false,
            passage_texts: false,
        };
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
                // Clients write lists in all of these ways.
                name if name == "include" || name.starts_with("include[") => {
                    page.passage_texts |= value.split(',').any(|one| one == PASSAGE_TEXT);
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// Those of all items, the first first, that are asked for.
    ///
    /// # Errors
    /// There is no item to begin after.
    pub(crate) fn cut(
        self,
        mut items: Vec<ConversationItem>,
    ) -> Result<ConversationItemList, ApiError> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let Some(at) = items.iter().position(|item| item.id() == after) else {
                let message = format!("there is no item {after:?} in this conversation");
                return Err(ApiError::invalid("after", message));
            };
            items.drain(..=at);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let id = |item: &ConversationItem| item.id().to_owned();
        Ok(ConversationItemList {
            object: "list".to_owned(),
            first_id: items.first().map(id),
            last_id: items.last().map(id),
            data: items,
            has_more,
        })
    }
}
