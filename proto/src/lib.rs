//! The words that OneGen's server and its clients exchange: JSON shapes and nothing else.
//!
//! Names are OpenAI's where OpenAI has one and vLLM's for the rest. What is ours stands under
//! `onegen` in answers ([`Receipt`]) and `retrieval` in requests ([`RetrievalOptions`]), so that a
//! client that knows nothing of it loses nothing.
//!
//! Every type can be read and written, so that a server and a client share one definition. Nothing
//! here is validated beyond its JSON type.

mod admin;
mod chat;
mod completions;
mod conversations;
mod documents;
mod embeddings;
mod entities;
mod errors;
mod filters;
mod health;
mod models;
mod receipts;
mod response_text;
mod responses;
mod schema_report;
mod server_sent_event;
mod stored_responses;
mod texts;
mod usage;
mod vector_stores;

pub use admin::Reloaded;
pub use chat::{
    Annotation, AnnotationType, ChatCompletion, ChatCompletionChunk, ChatCompletionChunkObject,
    ChatCompletionObject, ChatCompletionRequest, ChatStreamEvent, Choice, ChunkChoice,
    ChunkExtension, CompletionExtension, Content, ContentPart, ConversationReference, Delta,
    FinishReason, JsonSchemaFormat, Logprobs, OnRetrievalError, OpenWebUiChunk, OpenWebUiEvent,
    OpenWebUiMetadata, OpenWebUiSource, RequestMessage, ResponseFormat, ResponseMessage,
    RetrievalOptions, Role, Stop, StreamEvents, StreamOptions, StructuredOutputs, TokenLogprob,
    TopLogprob, UiMessageMetadata, UiMessagePart, UrlCitation,
};
pub use completions::{
    Completion, CompletionChoice, CompletionRequest, CompletionRetrievals, Prompt,
};
pub use conversations::{
    Conversation, ConversationExtension, ConversationItem, ConversationItemList,
    CreateConversationRequest, CreateItemsRequest, DeletedConversation, ForkRequest, InputItem,
    ItemAnnotation, ItemContent, ItemOrder, ListItems, MessageItem, NewItem, RebuiltConversation,
    RetrievalItem, UpdateConversationRequest,
};
pub use documents::{
    DeletedDocument, Document, DocumentBatch, DocumentPart, InCollection, SingleDocument,
    StoredDocument, StoredPassage, UpsertDocumentsRequest, UpsertedDocument, UpsertedDocuments,
};
pub use embeddings::{
    Embedding, EmbeddingList, EmbeddingUsage, EmbeddingVector, EmbeddingsRequest, EncodingFormat,
    InputType,
};
pub use entities::{
    EntityCandidate, EntityMention, LinkEntitiesEvent, LinkEntitiesRequest, LinkInput,
    LinkedEntities, LinkedText, LinkingPositions, LinkingReceipt, Nil, OffsetUnit,
};
pub use errors::{ErrorBody, ErrorEnvelope};
pub use filters::{
    CombinationType, CombinedFilter, EqualityFilter, EqualityType, FilterBound, FilterValue,
    MembershipFilter, MembershipType, MetadataFilter, NegatedFilter, NegationType, OrderFilter,
    OrderType,
};
pub use health::{CollectionCard, CollectionIndexing, Health, HealthStatus, Readiness};
pub use models::{ModelCard, ModelList, ModelListObject, ModelObject};
pub use receipts::{PassageKv, Receipt, ReceiptPassage};
pub use response_text::{ResponseText, TextFormat};
pub use responses::{
    FileSearchResult, FileSearchTool, IncompleteDetails, InputTokensDetails, OutputItem,
    OutputText, OutputTokensDetails, ResponseConversation, ResponseError, ResponseEvent,
    ResponseEventKind, ResponseExtension, ResponseInput, ResponseObject, ResponseRequest,
    ResponseStatus, ResponseUsage,
};
pub use schema_report::SchemaReport;
pub use server_sent_event::ServerSentEvent;
pub use stored_responses::{DeletedResponse, GetResponse, InputTokens};
pub use usage::{PromptTokensDetails, Usage};
pub use vector_stores::{
    FileCounts, ListVectorStores, RankingOptions, SearchQuery, SearchResultExtension, VectorStore,
    VectorStoreContent, VectorStoreList, VectorStoreSearchPage, VectorStoreSearchRequest,
    VectorStoreSearchResult,
};
