//! A response of OpenAI's Responses API as it is written.

use onegen_engine::{FinishReason, RetrievalReceipt};
use onegen_proto::{
    FileSearchResult, IncompleteDetails, InputTokensDetails, ItemAnnotation, OutputItem,
    OutputText, OutputTokensDetails, ResponseConversation, ResponseEvent, ResponseEventKind,
    ResponseExtension, ResponseObject, ResponseRequest, ResponseStatus, ResponseText,
    ResponseUsage, TextFormat,
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::conversations::items::message_id;
use crate::conversations::stored_responses::response_id;
use crate::routes::usage::schema_report;
use crate::turns::{Finished, LiveTurn, TurnEvent};
use crate::wire::citations::{passage_name, receipt};
use crate::wire::clock::unix_seconds;
use crate::wire::errors::ApiError;

/// How the id of a search that was given out begins.
pub(super) const SEARCH_PREFIX: &str = "fs_";

/// What a response repeats of its request.
pub(super) struct ResponseSettings {
    pub(super) request: ResponseRequest,
    pub(super) model: String,
    /// Whether the client wants the passages that were found.
    pub(super) results: bool,
    /// Whether the response is stored.
    pub(super) store: bool,
    /// Whether its conversation is there afterwards.
    pub(super) kept: bool,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
}

/// Turns what happens into items and events. Its text is one message, begun where it begins;
/// retrievals behind that have items behind it.
pub(super) struct ResponseWriter {
    response: ResponseObject,
    /// Where the retrievals search.
    collection: String,
    results: bool,
    kept: bool,
    /// The place of the message among the items, and its id.
    message: Option<(usize, String)>,
    /// The id of the message.
    message_id: String,
    /// What the other items are called after.
    name: String,
    next_event: usize,
}

impl ResponseWriter {
    pub(super) fn new(settings: ResponseSettings, collection: String, turn: &LiveTurn) -> Self {
        let request = settings.request;
        let text = request.text.unwrap_or_default();
        let response = ResponseObject {
            id: response_id(turn.conversation(), turn.answer() + 1),
            object: "response".to_owned(),
            created_at: unix_seconds(),
            status: ResponseStatus::InProgress,
            error: None,
            incomplete_details: None,
            instructions: request.instructions,
            max_output_tokens: request.max_output_tokens,
            model: settings.model,
            output: Vec::new(),
            parallel_tool_calls: true,
            previous_response_id: request.previous_response_id,
            conversation: None,
            temperature: settings.temperature,
            top_p: settings.top_p,
            tool_choice: match request.tool_choice {
                None | Some(Value::Null) => "auto".into(),
                Some(choice) => choice,
            },
            tools: request.tools.unwrap_or_default(),
            text: ResponseText {
                format: text.format.or(Some(TextFormat::Text)),
                ..text
            },
            store: settings.store,
            metadata: request.metadata.unwrap_or_default(),
            usage: None,
            onegen: None,
        };
        Self {
            response,
            collection,
            results: settings.results,
            kept: settings.kept,
            message: None,
            message_id: message_id(turn.conversation(), turn.answer()),
            name: Uuid::now_v7().simple().to_string(),
            next_event: 0,
        }
    }

    /// The first events.
    pub(super) fn begin(&mut self) -> Vec<ResponseEvent> {
        let response = || self.response.clone();
        let (created, in_progress) = (response(), response());
        self.numbered([
            ResponseEventKind::Created { response: created },
            ResponseEventKind::InProgress {
                response: in_progress,
            },
        ])
    }

    /// The events of what happened.
    ///
    /// # Errors
    /// The turn failed.
    pub(super) fn on(&mut self, event: TurnEvent) -> Result<Vec<ResponseEvent>, ApiError> {
        let events = match event {
            TurnEvent::Text(text) => self.text(text.text),
            TurnEvent::Retrieval(of_engine) => self.retrieval(&of_engine),
            TurnEvent::Finished(finished) => self.finish(finished),
            TurnEvent::Failed(error) => return Err(error),
        };
        Ok(self.numbered(events))
    }

    /// The last event of a turn that failed.
    pub(super) fn fail(&mut self, error: &ApiError) -> Vec<ResponseEvent> {
        self.response.status = ResponseStatus::Failed;
        self.response.error = Some(error.envelope().error.into());
        let response = self.response.clone();
        self.numbered([ResponseEventKind::Failed { response }])
    }

    /// The response as it is so far.
    pub(super) fn response(&self) -> &ResponseObject {
        &self.response
    }

    fn numbered(
        &mut self,
        events: impl IntoIterator<Item = ResponseEventKind>,
    ) -> Vec<ResponseEvent> {
        let numbered = events.into_iter().map(|happened| {
            let sequence_number = self.next_event;
            self.next_event += 1;
            ResponseEvent {
                sequence_number,
                happened,
            }
        });
        numbered.collect()
    }

    fn retrieval(&mut self, of_engine: &RetrievalReceipt) -> Vec<ResponseEventKind> {
        let output_index = self.response.output.len();
        let item_id = format!("{SEARCH_PREFIX}{}_{output_index}", self.name);
        let searching = OutputItem::FileSearchCall {
            id: item_id.clone(),
            status: "searching".to_owned(),
            queries: Vec::new(),
            results: None,
            onegen: None,
        };
        let found = of_engine.passages.iter().map(|passage| FileSearchResult {
            file_id: passage.id.clone(),
            filename: passage_name(&passage.id, &passage.title).to_owned(),
            score: passage.score,
            text: passage.text.clone(),
            attributes: Map::new(),
        });
        let item = OutputItem::FileSearchCall {
            id: item_id.clone(),
            status: "completed".to_owned(),
            queries: Vec::new(),
            results: self.results.then(|| found.collect()),
            onegen: Some(receipt(of_engine, &self.collection)),
        };
        self.response.output.push(item.clone());
        let id = || item_id.clone();
        vec![
            ResponseEventKind::ItemAdded {
                output_index,
                item: searching,
            },
            ResponseEventKind::SearchInProgress {
                output_index,
                item_id: id(),
            },
            ResponseEventKind::Searching {
                output_index,
                item_id: id(),
            },
            ResponseEventKind::SearchCompleted {
                output_index,
                item_id: id(),
            },
            ResponseEventKind::ItemDone { output_index, item },
        ]
    }

    fn text(&mut self, delta: String) -> Vec<ResponseEventKind> {
        let (mut events, (output_index, item_id)) = self.message();
        events.push(ResponseEventKind::TextDelta {
            output_index,
            item_id,
            content_index: 0,
            delta,
            logprobs: Vec::new(),
        });
        events
    }

    /// The message's place and id, and the events of its beginning if it begins here.
    fn message(&mut self) -> (Vec<ResponseEventKind>, (usize, String)) {
        if let Some(message) = &self.message {
            return (Vec::new(), message.clone());
        }
        let output_index = self.response.output.len();
        let item_id = self.message_id.clone();
        let item = message(&item_id, "in_progress", Vec::new());
        self.response.output.push(item.clone());
        self.message = Some((output_index, item_id.clone()));
        let begun = vec![
            ResponseEventKind::ItemAdded { output_index, item },
            ResponseEventKind::PartAdded {
                output_index,
                item_id: item_id.clone(),
                content_index: 0,
                part: output_text(String::new(), Vec::new()),
            },
        ];
        (begun, (output_index, item_id))
    }

    fn finish(&mut self, finished: Finished) -> Vec<ResponseEventKind> {
        let Finished {
            text,
            citations,
            summary,
            schema,
        } = finished;
        let (mut events, (output_index, item_id)) = self.message();
        let marks = citations.into_iter().map(ItemAnnotation::UrlCitation);
        let marks: Vec<_> = marks.collect();
        let added = marks.iter().cloned().enumerate();
        let added =
            added.map(
                |(annotation_index, annotation)| ResponseEventKind::AnnotationAdded {
                    output_index,
                    item_id: item_id.clone(),
                    content_index: 0,
                    annotation_index,
                    annotation,
                },
            );
        events.extend(added);
        let complete = summary.finish_reason == FinishReason::Stop;
        let part = output_text(text.clone(), marks);
        let status = if complete { "completed" } else { "incomplete" };
        let item = message(&item_id, status, vec![part.clone()]);
        self.response.output[output_index] = item.clone();
        self.complete(&summary);
        self.response.onegen = schema.map(|schema| ResponseExtension {
            schema: schema_report(schema),
        });
        let response = self.response.clone();
        events.extend([
            ResponseEventKind::TextDone {
                output_index,
                item_id: item_id.clone(),
                content_index: 0,
                text,
                logprobs: Vec::new(),
            },
            ResponseEventKind::PartDone {
                output_index,
                item_id,
                content_index: 0,
                part,
            },
            ResponseEventKind::ItemDone { output_index, item },
            if complete {
                ResponseEventKind::Completed { response }
            } else {
                ResponseEventKind::Incomplete { response }
            },
        ]);
        events
    }

    fn complete(&mut self, summary: &onegen_engine::TurnSummary) {
        let response = &mut self.response;
        response.status = match summary.finish_reason {
            FinishReason::Stop => ResponseStatus::Completed,
            FinishReason::Length => {
                let reason = "max_output_tokens".to_owned();
                response.incomplete_details = Some(IncompleteDetails { reason });
                ResponseStatus::Incomplete
            }
        };
        response.conversation = self.kept.then(|| ResponseConversation {
            id: summary.conversation.to_string(),
        });
        let used = &summary.usage;
        let input_tokens = used.prompt_tokens + used.passage_tokens;
        response.usage = Some(ResponseUsage {
            input_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: used.cached_tokens,
                passage_tokens: used.passage_tokens,
            },
            output_tokens: used.completion_tokens,
            output_tokens_details: OutputTokensDetails::default(),
            total_tokens: input_tokens + used.completion_tokens,
        });
    }
}

fn message(id: &str, status: &str, content: Vec<OutputText>) -> OutputItem {
    OutputItem::Message {
        id: id.to_owned(),
        status: status.to_owned(),
        role: "assistant".to_owned(),
        content,
    }
}

fn output_text(text: String, annotations: Vec<ItemAnnotation>) -> OutputText {
    OutputText {
        kind: "output_text".to_owned(),
        text,
        annotations,
        logprobs: Vec::new(),
    }
}
