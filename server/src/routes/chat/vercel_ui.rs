//! Vercel's UI message stream: what `useChat` of the AI SDK reads.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use onegen_engine::RetrievalReceipt;
use onegen_proto::{UiMessageMetadata, UiMessagePart};
use uuid::Uuid;

use crate::app::App;
use crate::recordings::EventResult;
use crate::routes::sse::{self, ResumableCall, data, done};
use crate::routes::usage::{finish_reason, usage};
use crate::turns::{Finished, LiveTurn, TurnEvent};
use crate::wire::citations::{passage_name, receipt};

/// Tells both sides that a stream is one; its value is the protocol's version.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-vercel-ai-ui-message-stream");

/// The only text of an answer.
const TEXT: &str = "text";

/// Streams a turn as parts of a message.
pub(super) fn response(
    app: &App,
    call: ResumableCall,
    turn: LiveTurn,
    collection: String,
    resumable: bool,
) -> Response {
    let conversation = turn.conversation().clone();
    let events = events(turn, collection);
    let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static("v1"))]);
    if resumable {
        call.response(app, conversation, headers, events)
    } else {
        (headers, sse::response(app.streams.heartbeat, events)).into_response()
    }
}

fn events(turn: LiveTurn, collection: String) -> impl Stream<Item = EventResult> {
    let message_id = format!("msg_{}", Uuid::now_v7().simple());
    let begin = [
        UiMessagePart::Start { message_id },
        UiMessagePart::StartStep,
    ];
    let begin = stream::iter(begin).map(|part| data(&part));
    let writer = Writer {
        collection,
        writes: false,
    };
    let rest = stream::unfold((turn, writer), |(mut turn, mut writer)| async move {
        let event = turn.next().await?;
        let last = matches!(event, TurnEvent::Finished(_) | TurnEvent::Failed(_));
        let parts = writer.on(event);
        let mut events: Vec<_> = parts.iter().map(data).collect();
        if last {
            events.push(done());
        }
        Some((stream::iter(events), (turn, writer)))
    });
    begin.chain(rest.flatten())
}

/// Turns what happens into parts.
struct Writer {
    /// Where the retrievals search.
    collection: String,
    /// Whether the text has begun.
    writes: bool,
}

impl Writer {
    fn on(&mut self, event: TurnEvent) -> Vec<UiMessagePart> {
        match event {
            TurnEvent::Text(text) => {
                let mut parts = self.begin();
                parts.push(UiMessagePart::TextDelta {
                    id: TEXT.to_owned(),
                    delta: text.text,
                });
                parts
            }
            TurnEvent::Retrieval(of_engine) => self.retrieval(&of_engine),
            TurnEvent::Finished(finished) => self.finish(finished),
            TurnEvent::Failed(error) => vec![UiMessagePart::Error {
                error_text: error.envelope().error.message,
            }],
        }
    }

    /// The text's beginning, once.
    fn begin(&mut self) -> Vec<UiMessagePart> {
        if std::mem::replace(&mut self.writes, true) {
            Vec::new()
        } else {
            vec![UiMessagePart::TextStart {
                id: TEXT.to_owned(),
            }]
        }
    }

    fn retrieval(&self, of_engine: &RetrievalReceipt) -> Vec<UiMessagePart> {
        let mut parts = vec![UiMessagePart::DataRetrieval {
            data: receipt(of_engine, &self.collection),
        }];
        parts.extend(of_engine.passages.first().map(|passage| {
            let source_id = passage.id.clone();
            let title = passage_name(&passage.id, &passage.title).to_owned();
            match passage.url.clone() {
                Some(url) => UiMessagePart::SourceUrl {
                    source_id,
                    url,
                    title,
                },
                None => UiMessagePart::SourceDocument {
                    source_id,
                    media_type: "text/plain".to_owned(),
                    title,
                },
            }
        }));
        parts
    }

    fn finish(&mut self, finished: Finished) -> Vec<UiMessagePart> {
        let Finished {
            citations, summary, ..
        } = finished;
        // An empty answer has an empty text.
        let mut parts = self.begin();
        parts.push(UiMessagePart::TextEnd {
            id: TEXT.to_owned(),
        });
        if !citations.is_empty() {
            parts.push(UiMessagePart::DataCitations { data: citations });
        }
        parts.push(UiMessagePart::FinishStep);
        parts.push(UiMessagePart::Finish {
            message_metadata: UiMessageMetadata {
                conversation: summary.conversation.to_string(),
                finish_reason: finish_reason(summary.finish_reason),
                usage: usage(&summary),
            },
        });
        parts
    }
}
