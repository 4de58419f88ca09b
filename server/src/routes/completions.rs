//! Completions of plain text: OpenAI's older API, with the retrievals shown.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use futures::stream::{self, Stream, StreamExt};
use onegen_proto::{
    ChatCompletionRequest, Completion, CompletionChoice, CompletionRequest, CompletionRetrievals,
    ErrorEnvelope, FinishReason, Receipt, ServerSentEvent, Usage,
};
use serde_json::Value;
use uuid::Uuid;

use crate::access::Caller;
use crate::app::{App, unix_seconds};
use crate::citations::receipt;
use crate::errors::ApiError;
use crate::json::{JsonBody, typed};
use crate::retrieval::AskedRetrieval;
use crate::turn::{Finished, LiveTurn, TextRequest, TurnEvent};
use crate::unsupported::refuse_unsupported_in_completion;

use super::chat::{Delivery, data, delivery, done, finish_reason, sampling, usage};

const MAX_PROMPTS: usize = 16;
/// OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Goes on with a text, retrieving passages while it writes. It belongs to no conversation.
#[utoipa::path(
    post, path = "/v1/completions", tag = "completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The text, or with `stream` its events, each of whose `data` is a `Completion`, ended by `data: [DONE]`",
            content((Completion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, description = "The request makes no sense, or is longer than the context", body = ErrorEnvelope),
        (status = 404, description = "There is no such model or collection", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 429, description = "Too many requests are waiting", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
        (status = 503, description = "The server is shutting down", body = ErrorEnvelope),
        (status = 504, description = "The answer took longer than the server gives it", body = ErrorEnvelope),
    )
)]
pub(crate) async fn complete(
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
            .map(|request| request.retrieval.collection().name().to_owned())
            .unwrap_or_default(),
    };
    // One that is refused takes the others with it: they are cancelled when they are dropped.
    let turns = try_join_all(requests.into_iter().map(|request| request.start(&app))).await;
    let turns = turns.map_err(|error| error.of_fields("max_tokens", "prompt"))?;
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
            Ok(app.streams.response(events))
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
    let retrieval = AskedRetrieval::of(retrieval, &app.collections, caller)?;
    let prompts = request.prompt.clone().into_vec();
    if !(1..=MAX_PROMPTS).contains(&prompts.len()) {
        let found = prompts.len();
        let message = format!("holds {found} texts, but must hold 1 to {MAX_PROMPTS}");
        return Err(ApiError::invalid("prompt", message));
    }
    if prompts.iter().any(String::is_empty) {
        return Err(ApiError::invalid("prompt", "must not be empty"));
    }
    let most = app.limits.max_tokens(request.max_tokens)?;
    let default = most.map_or(DEFAULT_MAX_TOKENS, |most| most.min(DEFAULT_MAX_TOKENS));
    request.max_tokens.get_or_insert(default);
    let request = as_chat(request);
    let delivery = delivery(&request)?;
    if delivery.events().is_some() {
        let param = "stream_options.events".to_owned();
        return Err(ApiError::Unsupported { param });
    }
    let sampling = sampling(&request)?;
    let each = prompts.into_iter().map(|prompt| TextRequest {
        caller: caller.clone(),
        prompt,
        sampling: sampling.clone(),
        retrieval: retrieval.clone(),
        received,
    });
    Ok((each.collect(), delivery))
}

/// What both kinds of requests have in common.
fn as_chat(request: CompletionRequest) -> ChatCompletionRequest {
    ChatCompletionRequest {
        stream: request.stream,
        stream_options: request.stream_options,
        max_tokens: request.max_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        repetition_penalty: request.repetition_penalty,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        seed: request.seed,
        min_tokens: request.min_tokens,
        stop_token_ids: request.stop_token_ids,
        stop: request.stop,
        logit_bias: request.logit_bias,
        ..ChatCompletionRequest::default()
    }
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
        let (Finished { text, summary }, _) = turn.end().await?;
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

/// What both took together.
pub(super) fn sum(a: Usage, b: Usage) -> Usage {
    let mut sum = a;
    sum.prompt_tokens += b.prompt_tokens;
    sum.completion_tokens += b.completion_tokens;
    sum.total_tokens += b.total_tokens;
    sum.prompt_tokens_details.cached_tokens += b.prompt_tokens_details.cached_tokens;
    sum.prompt_tokens_details.passage_tokens += b.prompt_tokens_details.passage_tokens;
    sum
}

/// Texts as they are written, mixed as they come. One that fails ends all.
fn events(
    turns: Vec<LiveTurn>,
    answer: Answer,
    include_usage: bool,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    let each = turns.into_iter().enumerate().map(|(index, turn)| {
        let events = stream::unfold(turn, |mut turn| async move {
            let event = turn.next().await?;
            Some((event, turn))
        });
        events.map(move |event| (index, event)).boxed()
    });
    let all = stream::select_all(each);
    let told = stream::unfold(
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
    told.map(stream::iter).flatten()
}
