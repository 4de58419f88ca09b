//! Server-sent events, and the responses that hold them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use onegen_engine::ConversationId;
use serde::Serialize;

use crate::admission::{Caller, Ticket};
use crate::app::App;
use crate::recordings::{EventResult, KeyClaim, Playback};
use crate::routes::heartbeat::with_heartbeat;

/// The conversation of a resumable stream, so that a client knows it before the first event.
const CONVERSATION: HeaderName = HeaderName::from_static("onegen-conversation");

/// A response of events. Without the header nginx collects them before it passes them on.
pub(super) fn response(
    heartbeat: Duration,
    events: impl Stream<Item = EventResult> + Send + 'static,
) -> Response {
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    let events = Sse::new(events);
    let response = (unbuffered, events).into_response();
    match heartbeat {
        Duration::ZERO => response,
        pause => with_heartbeat(response, pause),
    }
}

/// A response of recorded events.
pub(super) fn playback(heartbeat: Duration, playback: Playback) -> Response {
    (playback.headers, response(heartbeat, playback.events)).into_response()
}

/// Who asks for a turn that goes on without its client.
pub(super) struct ResumableCall {
    pub(super) caller: Caller,
    /// Counts the request until the turn's end.
    pub(super) ticket: Option<Arc<Ticket>>,
    /// What the client calls the request.
    pub(super) key: Option<KeyClaim>,
}

impl ResumableCall {
    /// Records a turn that goes on when its client is gone, and streams the recording.
    pub(super) fn response(
        self,
        app: &App,
        conversation: ConversationId,
        mut headers: HeaderMap,
        events: impl Stream<Item = EventResult> + Send + 'static,
    ) -> Response {
        if let Ok(conversation) = HeaderValue::from_str(conversation.as_str()) {
            headers.insert(CONVERSATION, conversation);
        }
        let Self {
            caller,
            ticket,
            key,
        } = self;
        let owner = caller.owner;
        let recording = app
            .recordings
            .record(conversation, owner, key, headers, ticket, events);
        playback(app.streams.heartbeat, recording)
    }
}

/// The last event.
pub(super) fn done() -> EventResult {
    Ok(Event::default().data("[DONE]"))
}

/// A value as an event.
pub(super) fn data(value: &impl Serialize) -> EventResult {
    Event::default().json_data(value)
}
