//! Linking mentions of entities in texts.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use onegen_engine::SpanKind;
use onegen_proto::{
    EntityMention, ErrorEnvelope, LinkEntitiesEvent, LinkEntitiesRequest, LinkInput,
    LinkedEntities, LinkedText, LinkingReceipt, Nil, ServerSentEvent, Usage,
};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::collections::search::SearchFields;
use crate::recordings::EventResult;
use crate::routes::errors::TurnErrors;
use crate::routes::sse::{self, data, done};
use crate::routes::usage::{sum, usage};
use crate::turns::linking::{LinkEvent, LinkRequest, Linking};
use crate::wire::citations::to_microseconds;
use crate::wire::errors::ApiError;
use crate::wire::json::{JsonBody, typed};

const MAX_TEXTS: usize = 128;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(link))
}

/// Marks mentions of entities in texts and says which entities of a collection they may be. Only models
/// that link do this, and nothing else.
#[utoipa::path(
    post, path = "/v1/entities/link", tag = "entities",
    request_body = LinkEntitiesRequest,
    responses(
        TurnErrors,
        (status = 200, description = "The mentions, or with `stream` events, each of whose `data` is a `LinkEntitiesEvent`, ended by `data: [DONE]`",
            content((LinkedEntities = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, description = "The request makes no sense, or the model links nothing", body = ErrorEnvelope),
        (status = 404, description = "There is no such model or collection", body = ErrorEnvelope),
    )
)]
async fn link(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let LinkCall {
        request,
        keeps_nil,
        streams,
    } = validate(body, &app, &caller, received)?;
    let texts = request.texts.len();
    let collection = request.collection.name().to_owned();
    let linking = request.start(&app).await?;
    let answer = Answer {
        model: app.model.name.clone(),
        received,
        keeps_nil,
        usage: Usage::default(),
        receipt: LinkingReceipt {
            collection,
            parts: linking.parts,
            ..LinkingReceipt::default()
        },
    };
    if streams {
        Ok(sse::response(
            app.streams.heartbeat,
            events(linking, answer),
        ))
    } else {
        let linked = answer.whole(linking, texts).await?;
        Ok(Json(linked).into_response())
    }
}

/// A validated request, and how its answer goes back.
struct LinkCall {
    request: LinkRequest,
    keeps_nil: bool,
    streams: bool,
}

fn validate(
    body: Value,
    app: &App,
    caller: &Caller,
    received: Instant,
) -> Result<LinkCall, ApiError> {
    let request: LinkEntitiesRequest = typed(body)?;
    app.model.check(&request.model)?;
    let collection = request.collection.as_deref();
    let collection = app.collections.get(collection, caller, "collection")?;
    let k = request.k.unwrap_or(1);
    let search = SearchFields::OWN.options(k, request.filter.as_ref(), request.min_score)?;
    Ok(LinkCall {
        keeps_nil: request.nil.unwrap_or_default() == Nil::Keep,
        streams: request.stream.unwrap_or(false),
        request: LinkRequest {
            caller: caller.clone(),
            texts: texts(request.input)?,
            collection: collection.clone(),
            search,
            offsets: request.offsets.unwrap_or_default(),
            received,
        },
    })
}

fn texts(input: LinkInput) -> Result<Vec<String>, ApiError> {
    let (texts, alone) = match input {
        LinkInput::One(text) => (vec![text], true),
        LinkInput::Many(texts) => (texts, false),
    };
    if !(1..=MAX_TEXTS).contains(&texts.len()) {
        let found = texts.len();
        let message = format!("holds {found} texts, but must hold 1 to {MAX_TEXTS}");
        return Err(ApiError::invalid("input", message));
    }
    match texts.iter().position(String::is_empty) {
        None => Ok(texts),
        Some(_) if alone => Err(ApiError::invalid("input", "must not be empty")),
        Some(at) => Err(ApiError::invalid(
            format!("input[{at}]"),
            "must not be empty",
        )),
    }
}

/// What an answer holds beside the mentions.
struct Answer {
    model: String,
    received: Instant,
    keeps_nil: bool,
    usage: Usage,
    receipt: LinkingReceipt,
}

impl Answer {
    /// Counts what has happened. Returns a mention that the answer holds, with the number of its text.
    fn receive(&mut self, event: LinkEvent) -> Option<(usize, EntityMention)> {
        match event {
            LinkEvent::Mention(index, mut mention) => {
                self.receipt.search_ms += mention.search_ms;
                mention.search_ms = to_microseconds(mention.search_ms);
                let wanted = self.keeps_nil || !mention.candidates.is_empty();
                wanted.then_some((index, mention))
            }
            LinkEvent::Copied(summary) => {
                self.usage = sum(self.usage, usage(&summary));
                let forwarded = &mut self.receipt.forwarded;
                forwarded.prompt += summary.forwarded[SpanKind::Prompt];
                forwarded.generated += summary.forwarded[SpanKind::Generated];
                forwarded.retrieval += summary.forwarded[SpanKind::Retrieval];
                None
            }
        }
    }

    /// What it took, at the end.
    fn end(mut self) -> (String, Usage, LinkingReceipt) {
        let total_ms = self.received.elapsed().as_secs_f64() * 1e3;
        self.receipt.total_ms = to_microseconds(total_ms);
        self.receipt.search_ms = to_microseconds(self.receipt.search_ms);
        (self.model, self.usage, self.receipt)
    }

    /// Waits for the end of all texts.
    async fn whole(
        mut self,
        mut linking: Linking,
        texts: usize,
    ) -> Result<LinkedEntities, ApiError> {
        let empty = |index| LinkedText {
            object: "entity.mentions".to_owned(),
            index,
            mentions: Vec::new(),
        };
        let mut data: Vec<_> = (0..texts).map(empty).collect();
        while let Some(event) = linking.next().await {
            if let Some((index, mention)) = self.receive(event?) {
                data[index].mentions.push(mention);
            }
        }
        let (model, usage, onegen) = self.end();
        Ok(LinkedEntities {
            object: "list".to_owned(),
            data,
            model,
            usage,
            onegen,
        })
    }
}

/// Mentions as they are found. One text that fails ends all.
fn events(linking: Linking, answer: Answer) -> impl Stream<Item = EventResult> {
    let events = stream::unfold(Some((linking, answer)), |state| async move {
        let (mut linking, mut answer) = state?;
        loop {
            match linking.next().await {
                Some(Ok(event)) => {
                    if let Some((index, mention)) = answer.receive(event) {
                        let event = data(&LinkEntitiesEvent::Mention { index, mention });
                        return Some((vec![event], Some((linking, answer))));
                    }
                }
                // The headers are gone, so the status cannot tell.
                Some(Err(error)) => return Some((vec![data(&error.envelope()), done()], None)),
                None => {
                    let (model, usage, onegen) = answer.end();
                    let end = LinkEntitiesEvent::Usage {
                        model,
                        usage,
                        onegen,
                    };
                    return Some((vec![data(&end), done()], None));
                }
            }
        }
    });
    events.map(stream::iter).flatten()
}
