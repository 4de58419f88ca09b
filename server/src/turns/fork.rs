//! Copies of conversations, which share the KV-cache of what they have in common.

use std::sync::Arc;

use onegen_engine::{ConversationError, ConversationId};
use tokio::runtime::Handle;

use crate::app::App;
use crate::conversations::{Transcript, new_id};
use crate::wire::errors::ApiError;

/// A copy in the engine that nobody else knows of yet. Dropped, it goes.
pub(crate) struct Fork {
    app: Arc<App>,
    id: ConversationId,
    kept: bool,
}

impl Fork {
    /// Copies token log and KV-cache of a conversation as far as this transcript of it goes, which may
    /// be a beginning. Where the engine does not hold them, the copy's transcript begins again from what
    /// was said.
    ///
    /// # Errors
    /// A turn of the conversation is under way.
    pub(crate) async fn new(
        app: &Arc<App>,
        id: &ConversationId,
        transcript: &mut Transcript,
    ) -> Result<Self, ApiError> {
        let copy = new_id();
        let forked = match transcript.log_end().log_len {
            0 => Err(ConversationError::Unknown(id.clone())),
            len => app.engine.fork(id, &copy, Some(len)).await,
        };
        match forked {
            Ok(()) => {}
            Err(ConversationError::Busy(_)) => {
                return Err(ApiError::ConversationBusy(id.to_string()));
            }
            Err(ConversationError::Stopped) => return Err(ApiError::ShuttingDown),
            Err(ConversationError::Store(reason)) => return Err(ApiError::NotStored(reason)),
            Err(_) => transcript.begin_again(),
        }
        Ok(Self {
            app: app.clone(),
            id: copy,
            kept: false,
        })
    }

    /// The copy's name.
    pub(crate) fn id(&self) -> &ConversationId {
        &self.id
    }

    /// From now on it is a conversation like others.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Without a runtime the process ends.
        if let Ok(runtime) = Handle::try_current() {
            let (app, id) = (self.app.clone(), self.id.clone());
            // Fails only where there is none.
            runtime.spawn(async move { _ = app.engine.delete(&id).await });
        }
    }
}
