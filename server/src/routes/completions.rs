//! Completions of plain text: OpenAI's older API, with the retrievals shown.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::future::{TryFutureExt, try_join_all};
use futures::stream::{self, Stream, StreamExt};
use onegen_proto::{
    Completion, CompletionChoice, CompletionRequest, CompletionRetrievals, ErrorEnvelope,
    FinishReason, Prompt, Receipt, ServerSentEvent, Usage,
};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::admission::Caller;
use crate::app::App;
use crate::recordings::EventResult;
use crate::routes::delivery::Delivery;
use crate::routes::errors::TurnErrors;
use crate::routes::sampling::SamplingFields;
use crate::routes::sse::{self, data, done};
use crate::routes::usage::{finish_reason, sum, usage};
use crate::turns::{Finished, LiveTurn, RequestedRetrieval, TextRequest, TurnEvent, TurnOptions};
use crate::wire::citations::receipt;
use crate::wire::clock::unix_seconds;
use crate::wire::errors::{ApiError, FieldNames};
use crate::wire::json::{JsonBody, typed};
use crate::wire::unsupported::refuse_unsupported_in_completion;

/// The fields that can be at fault when a text is gone on with.
const FIELDS: FieldNames = FieldNames {
    max_tokens: "max_tokens",
    prompt: "prompt",
};
const MAX_PROMPTS: usize = 16;
/// OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(complete))
}

/// Goes on with a text, retrieving passages while it writes. It belongs to no conversation.
#[utoipa::path(
    post, path = "/v1/completions", tag = "completions",
    request_body = CompletionRequest,
    responses(
        TurnErrors,
        (status = 200, description = "The text, or with `stream` its events, each of whose `data` is a `Completion`, ended by `data: [DONE]`",
            content((Completion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 404, description = "There is no such model or collection", body = ErrorEnvelope),
    )
)]
async fn complete(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let (requests, delivery) = validate(body, &app, &caller, received)?;
    let answer = Answer {
        id: format!("cmpl-{}", Uuid::now_v7().simple()),
        created: unix_seconds(),
        model: app.model.name.clone(),
        collection: requests
            .first()
            .map(|request| request.options.retrieval.collection().name().to_owned())
            .unwrap_or_default(),
    };
    // One that is refused takes the others with it: they are cancelled when they are dropped.
    let alone = requests.len() == 1;
    let started = requests.into_iter().enumerate().map(|(at, request)| {
        let turn = request.start(&app);
        turn.map_err(move |error| match alone {
            true => error,
            false => error.within(FIELDS.prompt, format!("{}[{at}]", FIELDS.prompt)),
        })
    });
    let turns = try_join_all(started).await?;
    match delivery {
        Delivery::Whole => {
            let ended = turns.into_iter().enumerate();
            let ended = try_join_all(ended.map(|(index, turn)| answer.whole(index, turn))).await?;
            let (choices, usages): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
            let usage = usages.into_iter().fold(Usage::default(), sum);
            Ok(Json(answer.completion(choices, Some(usage))).into_response())
        }
        Delivery::Stream(options) => {
            let events = events(turns, answer, options.include_usage);
            Ok(sse::response(app.streams.heartbeat, events))
        }
    }
}

fn validate(
    body: Value,
    app: &App,
    caller: &Caller,
    received: Instant,
) -> Result<(Vec<TextRequest>, Delivery), ApiError> {
    refuse_unsupported_in_completion(&body)?;
    let mut request: CompletionRequest = typed(body)?;
    app.model.check(&request.model)?;
    let retrieval = request.retrieval.clone().unwrap_or_default();
    let retrieval = RequestedRetrieval::new(retrieval, &app.collections, caller)?;
    let prompts = request.prompt.clone().into_vec();
    if !(1..=MAX_PROMPTS).contains(&prompts.len()) {
        let found = prompts.len();
        let message = format!("holds {found} texts, but must hold 1 to {MAX_PROMPTS}");
        return Err(ApiError::invalid("prompt", message));
    }
    if let Some(at) = prompts.iter().position(String::is_empty) {
        let param = match request.prompt {
            Prompt::One(_) => "prompt".to_owned(),
            Prompt::Many(_) => format!("prompt[{at}]"),
        };
        return Err(ApiError::invalid(param, "must not be empty"));
    }
    let most = app
        .bounds
        .max_tokens(request.max_tokens, FIELDS.max_tokens)?;
    let default = most.map_or(DEFAULT_MAX_TOKENS, |most| most.min(DEFAULT_MAX_TOKENS));
    request.max_tokens.get_or_insert(default);
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref(), false)?;
    if delivery.events().is_some() {
        let param = "stream_options.events".to_owned();
        return Err(ApiError::Unsupported { param });
    }
    let options = TurnOptions {
        caller: caller.clone(),
        sampling: SamplingFields::from_completion(&request).into_params()?,
        retrieval,
        drafting: request.drafting.unwrap_or(true),
        received,
        fields: FIELDS,
    };
    let each = prompts.into_iter().map(|prompt| TextRequest {
        options: options.clone(),
        prompt,
    });
    Ok((each.collect(), delivery))
}

/// What all parts of one answer have in common.
struct Answer {
    id: String,
    created: u64,
    model: String,
    /// Where its retrievals search.
    collection: String,
}

impl Answer {
    /// Waits for the end of the text after one prompt.
    async fn whole(
        &self,
        index: usize,
        turn: LiveTurn,
    ) -> Result<(CompletionChoice, Usage), ApiError> {
        let (Finished { text, summary, .. }, _) = turn.end().await?;
        let receipts = summary.retrievals.iter();
        let receipts = receipts.map(|of_engine| receipt(of_engine, &self.collection));
        let reason = finish_reason(summary.finish_reason);
        let choice = choice(index, text, Some(reason), receipts.collect());
        Ok((choice, usage(&summary)))
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    /// What happened after one prompt, and what it took if that was the end.
    fn piece(
        &self,
        index: usize,
        event: TurnEvent,
    ) -> Result<(Completion, Option<Usage>), ApiError> {
        let (choice, usage) = match event {
            TurnEvent::Text(text) => (choice(index, text.text, None, Vec::new()), None),
            TurnEvent::Retrieval(of_engine) => {
                let receipts = vec![receipt(&of_engine, &self.collection)];
                (choice(index, String::new(), None, receipts), None)
            }
            TurnEvent::Finished(Finished { summary, .. }) => {
                let reason = finish_reason(summary.finish_reason);
                let end = choice(index, String::new(), Some(reason), Vec::new());
                (end, Some(usage(&summary)))
            }
            TurnEvent::Failed(error) => return Err(error),
        };
        Ok((self.completion(vec![choice], None), usage))
    }
}

fn choice(
    index: usize,
    text: String,
    finish_reason: Option<FinishReason>,
    retrievals: Vec<Receipt>,
) -> CompletionChoice {
    CompletionChoice {
        index,
        text,
        logprobs: None,
        finish_reason,
        onegen: CompletionRetrievals { retrievals },
    }
}

/// Texts as they are written, mixed as they come. One that fails ends all.
fn events(
    turns: Vec<LiveTurn>,
    answer: Answer,
    include_usage: bool,
) -> impl Stream<Item = EventResult> {
    let each = turns.into_iter().enumerate().map(|(index, turn)| {
        let events = stream::unfold(turn, |mut turn| async move {
            let event = turn.next().await?;
            Some((event, turn))
        });
        events.map(move |event| (index, event)).boxed()
    });
    let all = stream::select_all(each);
    let events = stream::unfold(
        Some((all, answer, Usage::default())),
        move |state| async move {
            let (mut all, answer, so_far) = state?;
            let Some((index, event)) = all.next().await else {
                let last = answer.completion(Vec::new(), Some(so_far));
                let mut end = vec![done()];
                if include_usage {
                    end.insert(0, data(&last));
                }
                return Some((end, None));
            };
            match answer.piece(index, event) {
                Ok((piece, usage)) => {
                    let so_far = sum(so_far, usage.unwrap_or_default());
                    Some((vec![data(&piece)], Some((all, answer, so_far))))
                }
                // The headers are gone, so the status cannot tell.
                Err(error) => Some((vec![data(&error.envelope()), done()], None)),
            }
        },
    );
    events.map(stream::iter).flatten()
}
