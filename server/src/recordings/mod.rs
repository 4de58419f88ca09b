//! Recordings of streams, from which a client can resume a stream that it has lost.
//!
//! Normally a turn belongs to its stream: a client that disconnects ends both. The turn of a request
//! with `resumable` continues by itself and its events are recorded. The conversation's owner may read
//! them from any event on, until some time after the end. Each reader reads at its own pace and delays
//! neither the turn nor other readers.

mod answers;
mod idempotency;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::response::sse::Event;
use dashmap::DashMap;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use onegen_engine::ConversationId;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::admission::{Owner, first_to_go};
use crate::wire::errors::ApiError;
pub(crate) use answers::{IDEMPOTENCY_KEY, RecordedAnswers, answer_once};
use idempotency::IdempotencyKeys;
pub(crate) use idempotency::KeyClaim;

/// The most recordings that are kept. Beyond that, the owner with most of them loses the one that ended first.
const MAX_RECORDINGS: usize = 256;

/// An event, or the error that occurred when it was written.
pub(crate) type EventResult = Result<Event, axum::Error>;

/// All recordings, by their conversations.
pub(crate) struct Recordings {
    /// How long a recording is kept after its end.
    retention: Duration,
    recordings: DashMap<ConversationId, Recording>,
    keys: Arc<IdempotencyKeys>,
}

/// The events of a conversation's running or last turn.
#[derive(Clone)]
struct Recording {
    owner: Owner,
    /// The request's idempotency key. It is freed when the recording is deleted.
    key: Option<Arc<KeyClaim>>,
    /// The headers of every response that plays these events.
    headers: HeaderMap,
    events: watch::Receiver<Events>,
    turn: AbortHandle,
}

/// The events recorded so far.
#[derive(Default)]
struct Events {
    all: Vec<Event>,
    ended: Option<Instant>,
}

/// A recording as it is played to one reader.
pub(crate) struct Playback {
    /// The headers of the response.
    pub(crate) headers: HeaderMap,
    /// The events from the wanted one on, including future ones.
    pub(crate) events: BoxStream<'static, EventResult>,
}

/// Writes a recording. Dropping it ends the recording, also if the turn was stopped.
struct Recorder(watch::Sender<Events>);

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0
            .send_modify(|events| events.ended = Some(Instant::now()));
    }
}

impl Recordings {
    /// An empty collection of recordings, each of which will be kept for `retention` after its end.
    pub(crate) fn new(retention: Duration) -> Self {
        Self {
            retention,
            recordings: DashMap::new(),
            keys: Arc::default(),
        }
    }

    /// Runs a turn to its end, whether or not its events are read, and plays them from the beginning.
    /// `lasting` is held until the turn's end.
    pub(crate) fn record(
        self: &Arc<Self>,
        conversation: ConversationId,
        owner: Owner,
        key: Option<KeyClaim>,
        headers: HeaderMap,
        lasting: impl Send + 'static,
        events: impl Stream<Item = EventResult> + Send + 'static,
    ) -> Playback {
        let (sender, receiver) = watch::channel(Events::default());
        let recorder = Recorder(sender);
        let turn = tokio::spawn(async move {
            let _lasting = lasting;
            record(recorder, events).await;
        });
        let key = key.map(Arc::new);
        let recording = Recording {
            owner,
            key: key.clone(),
            headers,
            events: receiver.clone(),
            turn: turn.abort_handle(),
        };
        self.keep(conversation.clone(), recording.clone());
        if let Some(key) = key {
            key.begun(conversation.clone());
        }
        self.forget_later(conversation, receiver);
        play(recording, 0)
    }

    /// The events of a conversation's running or last turn from a number on, if the conversation
    /// belongs to the owner.
    pub(crate) fn resume(
        &self,
        conversation: &ConversationId,
        owner: &Owner,
        from: usize,
    ) -> Option<Playback> {
        let recording = self.find(conversation, owner)?;
        Some(play(recording, from))
    }

    /// Claims a key for a request, or plays the turn that the same request, sent before with this key, has
    /// already begun. `request` is the request's digest.
    ///
    /// # Errors
    /// [`ApiError::IdempotencyKeyReused`] if the key is that of another request.
    pub(crate) async fn claim(
        &self,
        owner: &Owner,
        key: &str,
        request: blake3::Hash,
    ) -> Result<Result<KeyClaim, Playback>, ApiError> {
        loop {
            let conversation = match self.keys.claim(owner, key, request).await? {
                Ok(claim) => return Ok(Ok(claim)),
                Err(conversation) => conversation,
            };
            let recording = self.find(&conversation, owner);
            let of_key = |recording: &Recording| {
                let held = recording.key.as_ref();
                held.is_some_and(|held| held.is(owner, key))
            };
            if let Some(recording) = recording.filter(of_key) {
                return Ok(Err(play(recording, 0)));
            }
            // The recording was just deleted, and the task that deleted it is about to free the key.
            tokio::task::yield_now().await;
        }
    }

    /// Deletes the recording of a conversation that is deleted.
    pub(crate) fn forget(&self, conversation: &ConversationId) {
        self.recordings.remove(conversation);
    }

    /// Stops a turn that runs by itself. Its recording stays. Returns false if the owner has no
    /// such turn.
    pub(crate) fn stop(&self, conversation: &ConversationId, owner: &Owner) -> bool {
        let recording = self.find(conversation, owner);
        recording.is_some_and(|recording| {
            let running = recording.events.borrow().ended.is_none();
            recording.turn.abort();
            running
        })
    }

    fn find(&self, conversation: &ConversationId, owner: &Owner) -> Option<Recording> {
        let recording = self.recordings.get(conversation)?;
        (recording.owner == *owner).then(|| recording.clone())
    }

    fn keep(&self, conversation: ConversationId, recording: Recording) {
        if self.recordings.len() >= MAX_RECORDINGS {
            let all: Vec<_> = self
                .recordings
                .iter()
                .map(|entry| {
                    let ended = entry.events.borrow().ended;
                    (entry.owner.clone(), ended, entry.key().clone())
                })
                .collect();
            let all = all.iter().map(|(owner, ended, id)| (owner, *ended, id));
            if let Some(first) = first_to_go(all) {
                // A new turn of that conversation may have replaced the recording meanwhile.
                self.recordings
                    .remove_if(first, |_, one| one.events.borrow().ended.is_some());
            }
        }
        self.recordings.insert(conversation, recording);
    }

    /// Deletes a recording some time after its end, unless another turn's recording has replaced
    /// it.
    fn forget_later(
        self: &Arc<Self>,
        conversation: ConversationId,
        events: watch::Receiver<Events>,
    ) {
        let recordings = Arc::downgrade(self);
        let retention = self.retention;
        tokio::spawn(async move {
            let mut events = events;
            // Waiting fails if the recorder was dropped, which also means the end.
            let _ = events.wait_for(|events| events.ended.is_some()).await;
            tokio::time::sleep(retention).await;
            if let Some(recordings) = recordings.upgrade() {
                recordings
                    .recordings
                    .remove_if(&conversation, |_, one| one.events.same_channel(&events));
            }
        });
    }
}

async fn record(recorder: Recorder, events: impl Stream<Item = EventResult>) {
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

fn play(recording: Recording, from: usize) -> Playback {
    Playback {
        headers: recording.headers,
        events: replay(recording.events, from).boxed(),
    }
}

/// All events from a number on, including future ones.
fn replay(events: watch::Receiver<Events>, from: usize) -> impl Stream<Item = EventResult> {
    stream::unfold((events, from), |(mut events, next)| async move {
        let event = {
            let there = events.wait_for(|events| events.ended.is_some() || next < events.all.len());
            there.await.ok()?.all.get(next).cloned()?
        };
        Some((Ok(event), (events, next + 1)))
    })
}

#[cfg(test)]
mod tests {
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

    /// Waits until a recording has ended.
    async fn ended(recordings: &Recordings, conversation: &str) {
        let recording = recordings.recordings.get(&conversation.into());
        let mut events = recording.unwrap().events.clone();
        let ended = events.wait_for(|events| events.ended.is_some()).await;
        assert!(ended.is_ok());
    }

    fn recordings() -> Arc<Recordings> {
        Arc::new(Recordings::new(Duration::from_secs(3600)))
    }

    fn begin(
        recordings: &Arc<Recordings>,
        conversation: &str,
        key: Option<KeyClaim>,
    ) -> tokio::sync::oneshot::Sender<()> {
        begin_of(recordings, conversation, key, Owner::default())
    }

    /// Begins to record a turn, which ends when the sender is dropped.
    fn begin_of(
        recordings: &Arc<Recordings>,
        conversation: &str,
        key: Option<KeyClaim>,
        owner: Owner,
    ) -> tokio::sync::oneshot::Sender<()> {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let events = stream::once(async move {
            let _ = ended.await;
            Ok(Event::default())
        });
        recordings.record(
            conversation.into(),
            owner,
            key,
            HeaderMap::new(),
            (),
            events,
        );
        end
    }

    #[tokio::test]
    async fn beyond_the_capacity_the_recording_that_ended_first_is_forgotten() {
        let recordings = recordings();
        let name = |at: usize| format!("conv_{at}");
        let mut ends: Vec<_> = (0..MAX_RECORDINGS)
            .map(|at| Some(begin(&recordings, &name(at), None)))
            .collect();
        // The turns end in another order than they began.
        let order = [200, 7, 133];
        for at in order {
            drop(ends[at].take());
            ended(&recordings, &name(at)).await;
        }
        for (more, first) in order.into_iter().enumerate() {
            ends.push(Some(begin(&recordings, &format!("more_{more}"), None)));
            let there = |at: usize| recordings.recordings.contains_key(&name(at).into());
            assert!(!there(first), "{first}");
            assert!(order[more + 1..].iter().all(|at| there(*at)));
        }
        // A running recording is not deleted.
        let _running = begin(&recordings, "another", None);
        assert_eq!(recordings.recordings.len(), MAX_RECORDINGS + 1);
    }

    #[tokio::test]
    async fn one_owners_recordings_do_not_push_out_anothers() {
        let recordings = recordings();
        let mine: ConversationId = "mine".into();
        let (me, other) = (Owner::key("a"), Owner::key("b"));
        drop(begin_of(&recordings, "mine", None, me.clone()));
        ended(&recordings, "mine").await;
        for at in 0..MAX_RECORDINGS + 50 {
            let name = format!("conv_{at}");
            drop(begin_of(&recordings, &name, None, other.clone()));
            ended(&recordings, &name).await;
        }
        assert_eq!(recordings.recordings.len(), MAX_RECORDINGS);
        assert!(recordings.resume(&mine, &me, 0).is_some());
    }

    #[tokio::test]
    async fn of_two_requests_with_one_key_the_second_gets_the_turn_of_the_first() {
        let recordings = recordings();
        let owner = Owner::default();
        let request = blake3::hash(b"request");
        let first = recordings.claim(&owner, "k", request).await.unwrap();
        let first = first.ok().unwrap();
        let again = recordings.clone();
        let second = tokio::spawn(async move {
            let played = again.claim(&Owner::default(), "k", request).await.unwrap();
            played.err().unwrap().events.count().await
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        // Another owner's requests have nothing to do with it, and another request may not have the key.
        let other = Owner::key("other");
        assert!(
            recordings
                .claim(&other, "k", request)
                .await
                .unwrap()
                .is_ok()
        );
        let reused = recordings.claim(&owner, "k", blake3::hash(b"other")).await;
        assert!(matches!(reused, Err(ApiError::IdempotencyKeyReused)));
        drop(begin(&recordings, "conv_1", Some(first)));
        assert_eq!(second.await.unwrap(), 1);
        // The key is freed when its recording is deleted.
        recordings.forget(&"conv_1".into());
        assert!(
            recordings
                .claim(&owner, "k", request)
                .await
                .unwrap()
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_key_is_free_again_when_its_request_was_refused() {
        let recordings = recordings();
        let request = blake3::hash(b"request");
        let first = recordings
            .claim(&Owner::default(), "k", request)
            .await
            .unwrap();
        let again = recordings.clone();
        let second = tokio::spawn(async move {
            let claimed = again.claim(&Owner::default(), "k", request).await;
            claimed.unwrap().is_ok()
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
    }
}
