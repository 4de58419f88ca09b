//! Conversations that this server shares with others: taking over what another one has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use onegen_engine::{ChatMessage, ConversationId, Role};
use tokio::time::sleep;

use super::files;
use super::holds::ConversationHold;
use super::recognise::Digest;
use super::shared_store::{
    Found, LEASE, LeaseNumber, LeaseOutcome, SharedChange, SharedRow, SharedStore,
};
use super::transcript::{SharedVersion, StoredConversation};
use super::{Conversations, KeepError, Occasion, Transcript};
use crate::admission::Owner;
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

/// Returns a conversation's token log as bytes, if the engine holds it.
type LogSource = Box<dyn Fn(&ConversationId) -> Option<Vec<u8>> + Send + Sync>;
/// Gives the engine another token log of a conversation; without one it forgets the conversation.
type LogTarget = Box<dyn Fn(&ConversationId, Option<Vec<u8>>) + Send + Sync>;

/// How long a turn waits for another server's lease: until the lease of one that was killed has run out.
const LEASE_WAIT: Duration = LEASE.saturating_add(Duration::from_secs(2));
/// Between two looks whether a lease is free.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of asking for the lease of a conversation that is held here.
enum HeldLease {
    Taken(LeaseNumber),
    /// Another server has it until this second since 1970.
    Elsewhere(f64),
    /// The store does not know the conversation yet.
    NotShared,
}

/// The table that servers share, and the engine whose logs go with the transcripts.
pub(crate) struct Sharing {
    pub(crate) store: SharedStore,
    pub(crate) log_of: LogSource,
    pub(crate) take_log: LogTarget,
}

impl Sharing {
    /// Writes a conversation for all servers and returns its version.
    ///
    /// # Errors
    /// [`KeepError::Elsewhere`] if another server has changed it or runs a turn of it; the database does not answer.
    pub(super) fn write(
        &self,
        id: &ConversationId,
        stored: &StoredConversation,
        head: Option<Digest>,
        when: Occasion,
    ) -> Result<SharedVersion, KeepError> {
        let transcript = &stored.transcript;
        let record = files::to_bytes(id, stored)?;
        let holds_log = transcript.log_end().log_len > 0;
        let log = holds_log.then(|| (self.log_of)(id)).flatten();
        let held = transcript.retrievals.iter().filter(|read| read.held);
        let mut documents: Vec<String> = held
            .map(|read| document_name(&read.receipt.collection, &read.document))
            .collect();
        documents.sort();
        documents.dedup();
        let change = SharedChange {
            known: self.known(stored),
            head: head.filter(|_| !transcript.named),
            record: &record,
            log: log.as_deref(),
            documents,
            releases: when == Occasion::TurnEnd,
        };
        let version = self.store.write(id, &change).map_err(KeepError::away)?;
        let version = version.ok_or_else(|| KeepError::Elsewhere(id.clone()))?;
        Ok(self.version(version))
    }

    /// Deletes a conversation for all servers.
    ///
    /// # Errors
    /// As of [`Self::write`].
    pub(super) fn remove(&self, id: &ConversationId) -> Result<(), KeepError> {
        match self.store.remove(id).map_err(KeepError::away)? {
            true => Ok(()),
            false => Err(KeepError::Elsewhere(id.clone())),
        }
    }

    fn version(&self, version: i64) -> SharedVersion {
        SharedVersion {
            table: self.store.table_id().to_owned(),
            version,
        }
    }

    /// The version in this table that a conversation is; `None` if it is of none or of another table.
    fn known(&self, stored: &StoredConversation) -> Option<i64> {
        let shared = stored.shared.as_ref()?;
        (shared.table == self.store.table_id()).then_some(shared.version)
    }
}

/// How the table names a document of a collection.
fn document_name(collection: &str, document: &str) -> String {
    format!("{collection}\u{1f}{document}")
}

impl Conversations {
    /// Takes over what another server has made of a conversation, before it is looked at here. Without a shared
    /// store nothing happens.
    ///
    /// # Errors
    /// [`ApiError::ConversationStoreAway`].
    pub(crate) async fn refresh(self: &Arc<Self>, id: &ConversationId) -> Result<(), ApiError> {
        if self.sharing.is_none() {
            return Ok(());
        }
        let (all, id) = (self.clone(), id.clone());
        blocking(move || all.refresh_now(&id)).await??;
        Ok(())
    }

    /// As [`Self::refresh`]; blocks.
    fn refresh_now(&self, id: &ConversationId) -> Result<(), KeepError> {
        let Some(sharing) = &self.sharing else {
            return Ok(());
        };
        // Whoever holds it here has its lease too.
        if self.state.lock().held.contains(id) {
            return Ok(());
        }
        let known = self.known(sharing, id);
        match sharing.store.find(id, known).map_err(KeepError::away)? {
            Found::Same => Ok(()),
            Found::Other(row) => self.take_over(sharing, id, row),
            Found::Nothing => {
                self.forget_deleted(sharing, id, known);
                Ok(())
            }
        }
    }

    /// Holds the owner's conversation on all servers, and returns its transcript with the hold. Waits for the lease of
    /// a server that was killed to run out.
    ///
    /// # Errors
    /// [`ApiError::ConversationNotFound`], [`ApiError::ConversationBusy`] if it is held already, here or by a server
    /// that runs, and [`ApiError::ConversationStoreAway`].
    pub(crate) async fn hold(
        self: &Arc<Self>,
        id: &ConversationId,
        owner: &Owner,
    ) -> Result<(Transcript, ConversationHold), ApiError> {
        if self.sharing.is_none() {
            return self.hold_here(id, owner);
        }
        // What is new in one that is known comes with the lease.
        if !self.contains(id) {
            self.refresh(id).await?;
        }
        let (_, mut hold) = self.hold_here(id, owner)?;
        let give_up = Instant::now() + LEASE_WAIT;
        let mut seen = None;
        loop {
            let (all, of) = (self.clone(), id.clone());
            match blocking(move || all.lease_now(&of)).await?? {
                HeldLease::Taken(lease) => {
                    hold.lease = Some(lease);
                    break;
                }
                HeldLease::NotShared => break,
                HeldLease::Elsewhere(until) => {
                    let renewed = seen.is_some_and(|seen| seen < until);
                    if renewed || Instant::now() > give_up {
                        return Err(ApiError::ConversationBusy(id.to_string()));
                    }
                    seen = Some(until);
                    sleep(LOOK_EVERY).await;
                }
            }
        }
        // It may have changed until it was held.
        let transcript = self.get(id, owner);
        let transcript =
            transcript.ok_or_else(|| ApiError::ConversationNotFound(id.to_string()))?;
        Ok((transcript, hold))
    }

    /// Takes the lease of a conversation that is held here, and what is new in it. Blocks.
    fn lease_now(&self, id: &ConversationId) -> Result<HeldLease, KeepError> {
        let Some(sharing) = &self.sharing else {
            return Ok(HeldLease::NotShared);
        };
        let known = self.known(sharing, id);
        match sharing.store.lease(id, known).map_err(KeepError::away)? {
            LeaseOutcome::Taken(number, found) => {
                if let Found::Other(row) = found {
                    let taken = self.take_over(sharing, id, row);
                    taken.inspect_err(|_| sharing.store.release(id, number))?;
                }
                Ok(HeldLease::Taken(number))
            }
            LeaseOutcome::Elsewhere(until) => Ok(HeldLease::Elsewhere(until)),
            LeaseOutcome::Nothing => {
                self.forget_deleted(sharing, id, known);
                Ok(HeldLease::NotShared)
            }
        }
    }

    /// Has this server know the conversations of others that these messages continue, so that it recognises them.
    ///
    /// # Errors
    /// [`ApiError::ConversationStoreAway`].
    pub(crate) async fn refresh_recognisable(
        self: &Arc<Self>,
        messages: &[ChatMessage],
        owner: &Owner,
        instructions: Option<&str>,
    ) -> Result<(), ApiError> {
        let Some(last) = messages.iter().rposition(|m| m.role == Role::Assistant) else {
            return Ok(());
        };
        if self.sharing.is_none() {
            return Ok(());
        }
        let known = self.recognise(messages, owner, instructions);
        let whole = known
            .iter()
            .any(|one| one.part.is_none() && one.transcript.messages.len() == last + 1);
        if whole {
            return Ok(());
        }
        let chain = self.digests.chain(messages, owner, instructions);
        let ends = messages.iter().zip(&chain);
        let heads: Vec<_> = ends
            .filter(|(message, _)| message.role == Role::Assistant)
            .map(|(_, digest)| *digest)
            .collect();
        let all = self.clone();
        let find = move || {
            let Some(sharing) = &all.sharing else {
                return Ok(());
            };
            let longest = sharing.store.with_last_head(&heads);
            match longest.map_err(KeepError::away)? {
                Some(id) => all.refresh_now(&id),
                None => Ok(()),
            }
        };
        blocking(find).await??;
        Ok(())
    }

    /// Deletes the token logs of all servers' conversations that hold these documents of a collection.
    pub(crate) fn forget_shared_logs(&self, collection: &str, documents: &[String]) {
        let Some(sharing) = &self.sharing else { return };
        let names: Vec<String> = documents
            .iter()
            .map(|document| document_name(collection, document))
            .collect();
        // Each turn looks again whether its conversation's documents are there.
        if let Err(error) = sharing.store.forget_logs(&names) {
            tracing::error!(%error, "shared token logs may still hold deleted documents");
        }
    }

    /// How the shared store answers, and where it is; `None` without one.
    pub(crate) fn shared_store(&self) -> Option<&SharedStore> {
        self.sharing.as_ref().map(|sharing| &sharing.store)
    }

    /// The version of the shared row that is known here.
    fn known(&self, sharing: &Sharing, id: &ConversationId) -> Option<i64> {
        let state = self.state.lock();
        sharing.known(&state.conversations.get(id)?.stored)
    }

    /// Replaces what is here of a conversation by a row.
    fn take_over(
        &self,
        sharing: &Sharing,
        id: &ConversationId,
        row: SharedRow,
    ) -> Result<(), KeepError> {
        let evicted = self.changing.alone(id, || {
            let (_, mut stored) = files::parse(&row.record)?;
            stored.shared = Some(sharing.version(row.version));
            (sharing.take_log)(id, row.log);
            self.write_beside(id, &stored);
            Ok::<_, KeepError>(self.insert(id.clone(), stored))
        })?;
        self.forget_evicted(evicted);
        Ok(())
    }

    /// Writes the file of a conversation that the shared store has: without it, it is read there again.
    pub(super) fn write_beside(&self, id: &ConversationId, stored: &StoredConversation) {
        if let Err(error) = self.files.write(id, stored) {
            tracing::warn!(%error, conversation = %id, "only the shared store has this transcript");
        }
    }

    /// Forgets a conversation that was shared, and that another server has deleted.
    fn forget_deleted(&self, sharing: &Sharing, id: &ConversationId, known: Option<i64>) {
        if known.is_none() {
            return;
        }
        self.changing.alone(id, || {
            (sharing.take_log)(id, None);
            if let Err(error) = self.files.remove(id) {
                tracing::warn!(%error, conversation = %id, "a transcript cannot be deleted");
            }
            self.state.lock().remove(id);
        });
    }
}
