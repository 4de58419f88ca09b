//! `/v1/conversations`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Content, Receipt, Role, UrlCitation};

/// A conversation to begin, with what was said before if anything was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"metadata": {"topic": "countries"}}))]
pub struct CreateConversationRequest {
    /// Messages that were said before, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub items: Option<Vec<NewItem>>,
    /// What the client wants to remember of it: at most 16 pairs, names of at most 64 characters and
    /// values of at most 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// What of a conversation changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"metadata": {"topic": "countries"}}))]
pub struct UpdateConversationRequest {
    /// What the client wants to remember of it, in place of what it wanted before: at most 16 pairs,
    /// names of at most 64 characters and values of at most 512.
    pub metadata: BTreeMap<String, String>,
}

/// Messages to put into a conversation, behind those that it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"items": [{"type": "message", "role": "user", "content": "Hello!"}]}))]
pub struct CreateItemsRequest {
    /// The messages, at most 20.
    #[schema(min_items = 1, max_items = 20)]
    pub items: Vec<NewItem>,
}

/// Where a copy of a conversation ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForkRequest {
    /// The id of the message that is the copy's last. Default: the conversation's last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "msg_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d_1")]
    pub after: Option<String>,
}

/// A message that was said before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"type": "message", "role": "user", "content": "Hello!"}))]
pub struct NewItem {
    /// `message`, or left out; nothing else is supported.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::message)]
    pub kind: Option<String>,
    /// Who said it.
    pub role: Role,
    /// What was said: a text, or parts of type `input_text`, `output_text` or `text`.
    pub content: Content,
}

/// A message, or an item of an earlier response that a client sends back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a message, or an item of an earlier response"
)]
pub enum InputItem {
    /// A message.
    Message(NewItem),
    /// An item by its id: a message that was said before, or a `file_search_call`, which is passed over.
    Named {
        /// `item_reference` or left out for a message, else `file_search_call`.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        #[schema(schema_with = crate::texts::item_reference)]
        kind: Option<String>,
        /// The item's id.
        id: String,
    },
    /// Another item.
    Other {
        /// Its type; only `file_search_call` is let through.
        #[serde(rename = "type")]
        #[schema(schema_with = crate::texts::file_search_call)]
        kind: String,
    },
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id, for `conversation` in requests.
    #[schema(example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `conversation`.
    #[schema(example = "conversation")]
    pub object: String,
    /// When it was begun, in seconds since 1970.
    pub created_at: u64,
    /// What the client wanted to remember of it.
    pub metadata: BTreeMap<String, String>,
    /// What OpenAI has no name for.
    pub onegen: ConversationExtension,
}

/// What OpenAI has no name for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConversationExtension {
    /// Visible messages so far.
    #[schema(example = 2)]
    pub messages: usize,
    /// Documents that it has read and that were deleted or changed since: where there are any, its
    /// next turn is refused until it is rebuilt.
    pub gone_documents: Vec<String>,
}

/// A conversation was deleted: its messages, token log and KV-cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedConversation {
    /// Its id.
    #[schema(example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `conversation.deleted`.
    #[schema(example = "conversation.deleted")]
    pub object: String,
    /// Always true.
    #[schema(example = true)]
    pub deleted: bool,
}

/// Which items of a conversation are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListItems {
    /// Those behind the item of this id, in the order that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How many at most. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// `desc`, the default, lists the latest first; `asc` the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(inline, example = "asc")]
    pub order: Option<ItemOrder>,
    /// `onegen.retrieval.passage_text` adds the texts of the passages that were read; other values
    /// change nothing. May be called `include[]` and come several times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<String>,
}

/// In which order items are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemOrder {
    /// The first first.
    Asc,
    /// The latest first.
    #[default]
    Desc,
}

/// Some of a conversation's items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConversationItemList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The items.
    pub data: Vec<ConversationItem>,
    /// The first one's id.
    pub first_id: Option<String>,
    /// The last one's id: list on with it as `after`.
    pub last_id: Option<String>,
    /// Whether there are more behind it.
    pub has_more: bool,
}

/// What happened in a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
pub enum ConversationItem {
    /// Something was said.
    #[serde(rename = "message")]
    Message(MessageItem),
    /// A passage was read, for the answer that comes next.
    #[serde(rename = "onegen.retrieval")]
    Retrieval(RetrievalItem),
}

impl ConversationItem {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            Self::Message(item) => &item.id,
            Self::Retrieval(item) => &item.id,
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageItem {
    /// Its id.
    #[schema(example = "msg_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d_1")]
    pub id: String,
    /// Always `completed`.
    #[schema(example = "completed")]
    pub status: String,
    /// Who said it.
    pub role: Role,
    /// What was said, in one piece.
    pub content: Vec<ItemContent>,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemContent {
    /// By another than the model.
    InputText {
        /// The text.
        text: String,
    },
    /// By the model.
    OutputText {
        /// The text.
        text: String,
        /// Which part of it came from which passage.
        annotations: Vec<ItemAnnotation>,
    },
}

/// A mark on a part of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ItemAnnotation {
    /// A citation of a passage.
    UrlCitation(UrlCitation),
}

/// A retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetrievalItem {
    /// Its id.
    #[schema(example = "rtr_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d_1_0")]
    pub id: String,
    /// Always `completed`.
    #[schema(example = "completed")]
    pub status: String,
    /// What was found, and what it cost.
    pub receipt: Receipt,
    /// The text of the passage that was read. Null unless it was asked for, and where the collection
    /// does not hold it any more.
    pub passage_text: Option<String>,
}

/// A conversation was made anew from its visible messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebuiltConversation {
    /// Its id, the same as before.
    #[schema(example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `conversation.rebuilt`.
    #[schema(example = "conversation.rebuilt")]
    pub object: String,
    /// The documents that it had read and does not hold any more, each once.
    #[schema(example = json!(["country-zembla"]))]
    pub dropped_documents: Vec<String>,
}
