//! An answer as server-sent events.

use axum::http::HeaderMap;
use axum::response::Response;
use futures::stream::{self, Stream, StreamExt};
use onegen_proto::{ChatCompletionChunk, StreamEvents};

use crate::app::App;
use crate::recordings::EventResult;
use crate::routes::delivery::StreamDelivery;
use crate::routes::sse::{self, ResumableCall, data, done};
use crate::turns::{Finished, LiveTurn, TurnEvent};

use super::answer::Answer;
use super::open_webui;

/// Streams a turn as chunks.
pub(super) fn response(
    app: &App,
    call: ResumableCall,
    turn: LiveTurn,
    answer: Answer,
    delivery: StreamDelivery,
) -> Response {
    let conversation = turn.conversation().clone();
    let events = events(turn, answer, delivery);
    if delivery.resumable {
        call.response(app, conversation, HeaderMap::new(), events)
    } else {
        sse::response(app.streams.heartbeat, events)
    }
}

fn events(
    turn: LiveTurn,
    answer: Answer,
    delivery: StreamDelivery,
) -> impl Stream<Item = EventResult> {
    let writer = Writer { answer, delivery };
    let first = writer.chunk(writer.answer.role());
    let rest = stream::unfold((turn, writer), |(mut turn, writer)| async move {
        let events = writer.on(turn.next().await?);
        Some((stream::iter(events), (turn, writer)))
    });
    stream::once(async { first }).chain(rest.flatten())
}

/// Turns what happens into events.
struct Writer {
    answer: Answer,
    delivery: StreamDelivery,
}

impl Writer {
    fn on(&self, event: TurnEvent) -> Vec<EventResult> {
        match event {
            TurnEvent::Text(text) => vec![self.chunk(self.answer.text(text))],
            TurnEvent::Retrieval(receipt) => {
                let mut events = vec![self.chunk(self.answer.retrieval(&receipt))];
                if self.delivery.events == Some(StreamEvents::OpenWebui) {
                    events.extend(open_webui::chunks(&receipt).iter().map(data));
                }
                events
            }
            TurnEvent::Finished(Finished {
                citations,
                summary,
                schema,
                ..
            }) => {
                let mut events = Vec::new();
                if !citations.is_empty() {
                    events.push(self.chunk(self.answer.annotations(citations)));
                }
                events.push(self.chunk(self.answer.finish(&summary, schema)));
                if self.delivery.include_usage {
                    events.push(self.chunk(self.answer.usage(&summary)));
                }
                events.push(done());
                events
            }
            // The headers are gone, so the status cannot tell.
            TurnEvent::Failed(error) => vec![data(&error.envelope()), done()],
        }
    }

    fn chunk(&self, mut chunk: ChatCompletionChunk) -> EventResult {
        if self.delivery.include_usage {
            chunk.usage.get_or_insert(None);
        }
        data(&chunk)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::response::{IntoResponse, Sse};
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::errors::ApiError;

    #[tokio::test]
    async fn an_error_after_the_headers_is_an_event_and_the_stream_ends_as_ever() {
        let writer = Writer {
            answer: Answer::new("onegen".to_owned(), "default".to_owned(), false),
            delivery: StreamDelivery {
                include_usage: true,
                resumable: false,
                events: None,
            },
        };
        let secret = ApiError::Internal("the disk /dev/sdx is on fire".to_owned());
        let events = writer.on(TurnEvent::Failed(secret));
        let body = Sse::new(stream::iter(events)).into_response().into_body();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (error, end) = text.split_once("\n\n").unwrap();
        let error: Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
        let told = json!({"error": {
            "message": "the server failed to answer", "type": "server_error", "param": null,
            "code": "internal_error",
        }});
        assert_eq!(error, told);
        assert_eq!(end, "data: [DONE]\n\n");
    }
}
