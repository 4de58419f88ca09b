//! Reads and changes documents of a collection while it is served.

mod forgetting;

use std::sync::Arc;

use onegen_engine::Tokens;
use onegen_index::{Change, ChangeCounts, IndexError, Passage, SplitPassage};
use onegen_proto::{Document, DocumentPart, StoredDocument, StoredPassage};

use crate::collections::{Collection, Embedding};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

pub(crate) use forgetting::DeletedDocuments;

/// The most bytes of an id.
const MAX_ID_BYTES: usize = 512;
/// The most bytes of a URL.
const MAX_URL_BYTES: usize = 8 << 10;
/// The most fields of a document's metadata, and their bytes as JSON: every passage of the document holds them.
const MAX_FIELDS: usize = 256;
const MAX_METADATA_BYTES: usize = 64 << 10;
/// The most documents of one request.
const MAX_DOCUMENTS: usize = 1000;

/// Documents that were checked, for one collection.
pub(crate) struct Upload {
    pub(crate) collection: Arc<Collection>,
    documents: Vec<Document>,
    /// The path of a document in the request.
    path: fn(usize) -> String,
}

impl Upload {
    /// # Errors
    /// [`ApiError::Invalid`] names the field at fault.
    pub(crate) fn one(collection: Arc<Collection>, document: Document) -> Result<Self, ApiError> {
        Self::checked(collection, vec![document], |_| String::new())
    }

    /// # Errors
    /// [`ApiError::Invalid`] names the field at fault.
    pub(crate) fn batch(
        collection: Arc<Collection>,
        documents: Vec<Document>,
    ) -> Result<Self, ApiError> {
        if !(1..=MAX_DOCUMENTS).contains(&documents.len()) {
            let found = documents.len();
            let message = format!("holds {found} documents, but must hold 1 to {MAX_DOCUMENTS}");
            return Err(ApiError::invalid("documents", message));
        }
        Self::checked(collection, documents, |at| format!("documents[{at}]."))
    }

    fn checked(
        collection: Arc<Collection>,
        documents: Vec<Document>,
        path: fn(usize) -> String,
    ) -> Result<Self, ApiError> {
        for (at, document) in documents.iter().enumerate() {
            let fault =
                |field: &str, message: String| Err(ApiError::invalid(path(at) + field, message));
            let id = &document.id;
            if id.is_empty() || id.len() > MAX_ID_BYTES {
                let bytes = id.len();
                return fault(
                    "id",
                    format!("has {bytes} bytes, but must have 1 to {MAX_ID_BYTES}"),
                );
            }
            if is_called_as_a_part(id) {
                return fault(
                    "id",
                    format!(
                        "{id:?} ends as the passages of a long document are called; choose another"
                    ),
                );
            }
            if let Some(first) = documents[..at].iter().position(|other| other.id == *id) {
                return fault("id", format!("{id:?} is the id of documents[{first}] too"));
            }
            if document.text.trim().is_empty() {
                return fault("text", "must hold something to be found by".to_owned());
            }
            if let Some(url) = document.url.as_ref().filter(|u| u.len() > MAX_URL_BYTES) {
                let bytes = url.len();
                return fault(
                    "url",
                    format!("has {bytes} bytes, but may have {MAX_URL_BYTES}"),
                );
            }
            let fields = document.metadata.as_ref().map_or(0, |fields| fields.len());
            let bytes = serde_json::to_string(&document.metadata).map_or(0, |json| json.len());
            if fields > MAX_FIELDS || bytes > MAX_METADATA_BYTES {
                let message = format!(
                    "has {fields} fields and {bytes} bytes, but may have {MAX_FIELDS} and {MAX_METADATA_BYTES}"
                );
                return fault("metadata", message);
            }
        }
        Ok(Self {
            collection,
            documents,
            path,
        })
    }

    /// Splits and embeds the documents and adds all or none of them. Returns the number of passages
    /// of each. Searches that begin after this find them.
    ///
    /// # Errors
    /// [`ApiError::CollectionReadOnly`], [`ApiError::Invalid`] for a document that cannot be
    /// embedded.
    pub(crate) async fn put_in(
        self,
        embedding: &Embedding,
        deleted: &DeletedDocuments,
    ) -> Result<Vec<usize>, ApiError> {
        let Self {
            collection,
            documents,
            path,
        } = self;
        if collection.store().is_read_only() {
            return Err(ApiError::CollectionReadOnly(collection.name().to_owned()));
        }
        let rules = collection.store().document_rules();
        let bytes = documents.iter().map(|document| document.text.len()).sum();
        let split = move |tokens: &Tokens| -> Vec<Vec<SplitPassage>> {
            let count = |text: &str| tokens.count(text);
            let documents = documents.into_iter().map(index_document);
            documents
                .map(|document| rules.split.split(document, count))
                .collect()
        };
        let documents = embedding.encoding().run(bytes, split).await?;

        let texts = documents.iter().flatten().flat_map(|split| {
            let titled = |text: &str| (split.passage.title.clone(), text.to_owned());
            rules.texts(split).into_iter().map(titled)
        });
        let mut embedded = embedding.passages(texts.collect()).await?.into_iter();
        let mut changes = Vec::new();
        let mut ids = Vec::with_capacity(documents.len());
        let counts = documents.iter().map(Vec::len).collect();
        for (at, passages) in documents.into_iter().enumerate() {
            if let Some(split) = passages.first() {
                let id = split.passage.document_id().to_owned();
                ids.push(id.clone());
                changes.push(Change::DeleteDocument { id });
            }
            for split in passages {
                let vectors = embedded.by_ref().take(rules.texts(&split).len());
                let vectors = vectors.map(|embedded| embedded.map(|text| text.vector));
                let vectors = vectors.collect::<Result<_, _>>().map_err(|too_long| {
                    let message = format!("cannot be embedded with its title: {too_long}");
                    ApiError::invalid(path(at) + "text", message)
                })?;
                let passage = split.passage;
                changes.push(Change::Upsert { passage, vectors });
            }
        }
        change(deleted, &collection, ids, changes).await?;
        Ok(counts)
    }
}

/// Deletes a document with all its passages. Returns the number of passages, and the number of
/// conversations that had read one.
///
/// # Errors
/// [`ApiError::DocumentNotFound`], [`ApiError::CollectionReadOnly`].
pub(crate) async fn take_out(
    deleted: &DeletedDocuments,
    collection: &Arc<Collection>,
    id: String,
) -> Result<(usize, usize), ApiError> {
    let not_found = not_found(collection, &id);
    let of_a_part = find(collection, &id).await?.and_then(|found| found.part);
    if let Some(part) = of_a_part {
        let document = part.document;
        return Err(ApiError::invalid(
            "id",
            format!("{id:?} is a part of the document {document:?}; delete that"),
        ));
    }
    let changes = vec![Change::DeleteDocument { id: id.clone() }];
    let changed = change(deleted, collection, vec![id], changes).await?;
    match changed.applied.deleted {
        0 => Err(not_found),
        passages => Ok((passages, changed.conversations)),
    }
}

/// A document, or a passage of one.
///
/// # Errors
/// [`ApiError::DocumentNotFound`].
pub(crate) async fn get(
    collection: &Arc<Collection>,
    id: String,
) -> Result<StoredDocument, ApiError> {
    let found = find(collection, &id).await?;
    found.ok_or_else(|| not_found(collection, &id))
}

async fn find(collection: &Arc<Collection>, id: &str) -> Result<Option<StoredDocument>, ApiError> {
    let (collection, id) = (collection.clone(), id.to_owned());
    let find = move || stored(&collection, &id);
    Ok(blocking(find).await??)
}

fn stored(collection: &Collection, id: &str) -> Result<Option<StoredDocument>, IndexError> {
    let mut passages = collection.store().document(id)?;
    if passages.is_empty() {
        passages.extend(collection.store().get(id)?);
    }
    let Some(first) = passages.first() else {
        return Ok(None);
    };
    let is_document = first.document_id() == id;
    let text = joined(&passages);
    let parts: Vec<_> = passages.iter().filter_map(stored_passage).collect();
    let Passage {
        title,
        url,
        metadata,
        part,
        ..
    } = passages.swap_remove(0);
    let part = part.filter(|_| !is_document).map(document_part);
    Ok(Some(StoredDocument {
        id: id.to_owned(),
        object: "document".to_owned(),
        collection: collection.name().to_owned(),
        title,
        text,
        url,
        metadata,
        passages: (is_document && !parts.is_empty()).then_some(parts),
        part,
    }))
}

/// The text of consecutive passages, which may overlap. Between them there was only white space.
fn joined(passages: &[Passage]) -> String {
    let start = |passage: &Passage| passage.part.as_ref().map_or(0, |part| part.start);
    let mut at = passages.first().map_or(0, start);
    let mut text = String::new();
    for passage in passages {
        let start = start(passage);
        text.extend(std::iter::repeat_n(' ', start.saturating_sub(at)));
        text.extend(passage.text.chars().skip(at.saturating_sub(start)));
        at = at.max(start + passage.text.chars().count());
    }
    text
}

fn stored_passage(passage: &Passage) -> Option<StoredPassage> {
    Some(StoredPassage {
        id: passage.id.clone(),
        text: passage.text.clone(),
        part: document_part(passage.part.clone()?),
    })
}

fn document_part(part: onegen_index::Part) -> DocumentPart {
    DocumentPart {
        document: part.document,
        start: part.start,
        end: part.end,
    }
}

fn index_document(document: Document) -> onegen_index::Document {
    onegen_index::Document {
        id: document.id,
        title: document.title,
        text: document.text,
        url: document.url,
        metadata: document.metadata,
        sentences: None,
    }
}

/// Whether an id looks like `…#7`, the form that a splitter gives to the passages of a document.
fn is_called_as_a_part(id: &str) -> bool {
    let number = id.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

fn not_found(collection: &Collection, id: &str) -> ApiError {
    ApiError::DocumentNotFound {
        document: id.to_owned(),
        collection: collection.name().to_owned(),
    }
}

/// The result of a batch of changes.
struct AppliedChanges {
    applied: ChangeCounts,
    /// The number of conversations that held old versions.
    conversations: usize,
}

/// Changes some documents, and the engine forgets the conversations that hold the old ones. Both
/// happen even if the client disconnects.
async fn change(
    deleted: &DeletedDocuments,
    collection: &Arc<Collection>,
    documents: Vec<String>,
    changes: Vec<Change>,
) -> Result<AppliedChanges, ApiError> {
    let (deleted, collection) = (deleted.clone(), collection.clone());
    let both = async move {
        let (index, names) = (collection.clone(), documents.clone());
        let applied = blocking(move || index.change(&names, changes)).await??;
        let conversations = deleted.forget(collection.name(), &documents).await;
        Ok(AppliedChanges {
            applied,
            conversations,
        })
    };
    match tokio::spawn(both).await {
        Ok(changed) => changed,
        Err(panicked) => Err(ApiError::Internal(panicked.to_string())),
    }
}
