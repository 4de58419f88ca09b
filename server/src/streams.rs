//! Streams: how they are kept open, and how a client that lost one goes on.
//!
//! A turn belongs to its stream: a client that goes away ends both. A request that says `resumable`
//! asks for the other way: its turn goes on by itself, its events are recorded, and whoever owns the
//! conversation may read them from any event on, until some time after the end. A reader takes what is
//! there at its own pace; it holds up neither the turn nor other readers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream;
use onegen_engine::ConversationId;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::access::Owner;
use crate::config::StreamConfig;
use crate::limits::Ticket;

/// The conversation of a resumable stream, told before its first event.
const CONVERSATION: HeaderName = HeaderName::from_static("onegen-conversation");

/// Recordings kept; beyond, the one that ended first is forgotten early.
const MAX_RECORDINGS: usize = 256;

/// What goes wrong when an event is made.
type Made = Result<Event, axum::Error>;

/// All recordings, by their conversations.
pub(crate) struct Streams {
    config: StreamConfig,
    recordings: Mutex<HashMap<ConversationId, Recording>>,
}

/// The events of a conversation's running or last turn.
#[derive(Clone)]
struct Recording {
    owner: Owner,
    /// What its client calls the request.
    key: Option<String>,
    /// Of each response that gives these events.
    headers: HeaderMap,
    events: watch::Receiver<Events>,
    turn: AbortHandle,
}

#[derive(Default)]
struct Events {
    all: Vec<Event>,
    over: bool,
}

/// Ends a recording, also of a turn that was stopped.
struct Recorder(watch::Sender<Events>);

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.send_modify(|events| events.over = true);
    }
}

impl Streams {
    pub(crate) fn new(config: StreamConfig) -> Self {
        Self {
            config,
            recordings: Mutex::default(),
        }
    }

    /// A response of events. Without the header nginx collects them before it passes them on.
    pub(crate) fn response(&self, events: impl Stream<Item = Made> + Send + 'static) -> Response {
        let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
        let events = Sse::new(events);
        match self.config.heartbeat {
            Duration::ZERO => (unbuffered, events).into_response(),
            interval => {
                // A comment keeps proxies from closing a stream that waits.
                let comment = KeepAlive::new().text("keep-alive");
                let heartbeat = comment.interval(interval);
                (unbuffered, events.keep_alive(heartbeat)).into_response()
            }
        }
    }

    /// Lets a turn's events come whether or not somebody reads them, and gives them as a response.
    pub(crate) fn resumable(
        self: &Arc<Self>,
        conversation: ConversationId,
        owner: Owner,
        key: Option<String>,
        ticket: Option<Arc<Ticket>>,
        mut headers: HeaderMap,
        events: impl Stream<Item = Made> + Send + 'static,
    ) -> Response {
        let (sender, receiver) = watch::channel(Events::default());
        let recorder = Recorder(sender);
        let turn = tokio::spawn(async move {
            let _counted = ticket;
            record(recorder, events).await;
        });
        if let Ok(conversation) = HeaderValue::from_str(conversation.as_str()) {
            headers.insert(CONVERSATION, conversation);
        }
        let recording = Recording {
            owner,
            key,
            headers,
            events: receiver.clone(),
            turn: turn.abort_handle(),
        };
        self.keep(conversation.clone(), recording.clone());
        self.forget_later(conversation, receiver);
        self.replayed(recording, 0)
    }

    /// The events of a conversation's running or last turn from one on, if it is the owner's.
    pub(crate) fn resume(
        &self,
        conversation: &ConversationId,
        owner: &Owner,
        from: usize,
    ) -> Option<Response> {
        let recording = self.find(conversation, owner)?;
        Some(self.replayed(recording, from))
    }

    /// All events of the turn that the owner has asked for by this key, if there is one: what comes twice
    /// is answered once.
    pub(crate) fn repeated(&self, key: &str, owner: &Owner) -> Option<Response> {
        let asked = |recording: &&Recording| {
            recording.key.as_deref() == Some(key) && recording.owner == *owner
        };
        let recording = self.lock().values().find(asked).cloned()?;
        Some(self.replayed(recording, 0))
    }

    fn replayed(&self, recording: Recording, from: usize) -> Response {
        let response = self.response(replay(recording.events, from));
        (recording.headers, response).into_response()
    }

    /// Forgets what is recorded of a conversation, which is deleted.
    pub(crate) fn forget(&self, conversation: &ConversationId) {
        self.lock().remove(conversation);
    }

    /// Stops a turn that goes on by itself; false where the owner has none. Its recording stays.
    pub(crate) fn stop(&self, conversation: &ConversationId, owner: &Owner) -> bool {
        let recording = self.find(conversation, owner);
        recording.is_some_and(|recording| {
            let running = !recording.events.borrow().over;
            recording.turn.abort();
            running
        })
    }

    fn find(&self, conversation: &ConversationId, owner: &Owner) -> Option<Recording> {
        let recordings = self.lock();
        let recording = recordings.get(conversation)?;
        (recording.owner == *owner).then(|| recording.clone())
    }

    fn keep(&self, conversation: ConversationId, recording: Recording) {
        let mut recordings = self.lock();
        if recordings.len() >= MAX_RECORDINGS {
            let ended = recordings.iter().find(|(_, one)| one.events.borrow().over);
            if let Some(ended) = ended.map(|(conversation, _)| conversation.clone()) {
                recordings.remove(&ended);
            }
        }
        recordings.insert(conversation, recording);
    }

    /// Forgets a recording some time after its end, unless another turn's is in its place by then.
    fn forget_later(
        self: &Arc<Self>,
        conversation: ConversationId,
        events: watch::Receiver<Events>,
    ) {
        let streams = Arc::downgrade(self);
        let retention = self.config.retention;
        tokio::spawn(async move {
            let mut events = events;
            // Fails when the recorder is gone, which is an end too.
            let _ = events.wait_for(|events| events.over).await;
            tokio::time::sleep(retention).await;
            if let Some(streams) = streams.upgrade() {
                let mut recordings = streams.lock();
                let kept = recordings.get(&conversation);
                if kept.is_some_and(|kept| kept.events.same_channel(&events)) {
                    recordings.remove(&conversation);
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConversationId, Recording>> {
        // Nothing in here panics halfway through a change.
        self.recordings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn record(recorder: Recorder, events: impl Stream<Item = Made>) {
    use futures::StreamExt;
    let mut events = std::pin::pin!(events);
    let mut next = 0_u64;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let event = event.id(next.to_string());
                next += 1;
                recorder.0.send_modify(|events| events.all.push(event));
            }
            Err(error) => tracing::error!(%error, "an event could not be written"),
        }
    }
}

/// All events from one on, those to come too.
fn replay(events: watch::Receiver<Events>, from: usize) -> impl Stream<Item = Made> {
    stream::unfold((events, from), |(mut events, next)| async move {
        let event = {
            let there = events.wait_for(|events| events.over || next < events.all.len());
            there.await.ok()?.all.get(next).cloned()?
        };
        Some((Ok(event), (events, next + 1)))
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_recording_that_was_stopped_ends_for_its_readers() {
        let (sender, receiver) = watch::channel(Events::default());
        let endless = stream::once(async { Ok(Event::default()) }).chain(stream::pending());
        let turn = tokio::spawn(record(Recorder(sender), endless));
        let mut replayed = std::pin::pin!(replay(receiver, 0));
        assert!(replayed.next().await.is_some());
        turn.abort();
        assert!(replayed.next().await.is_none());
    }
}
