//! Answers that were given already, so that a request that a client sends again is answered, not done, twice.
//!
//! A client names a request with the header `Idempotency-Key`. If its first answer is lost, it sends the request
//! again under that name. Resumable streams have recordings of their own, which can be read while they grow;
//! every other successful answer is kept here for a while once it is complete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;

use crate::admission::{Caller, Owner, first_to_go};
use crate::wire::errors::ApiError;
use crate::wire::json::BodyLimit;

/// Names a request, so that one that comes twice is done once.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// How long an answer is kept.
const RETENTION: Duration = Duration::from_secs(600);
/// The most answers that are kept. Beyond that, the owner with most of them loses the oldest.
const MAX_ANSWERS: usize = 1024;
/// The largest answer that is kept.
const MAX_BYTES: usize = 1 << 20;

type Key = (Owner, String);

/// The answers of all owners.
#[derive(Default)]
pub(crate) struct RecordedAnswers {
    answers: Mutex<HashMap<Key, Answer>>,
}

/// What is known of a named request. `request` is the digest of its method, path and body.
enum Answer {
    /// It is being answered. The channel closes when that ends.
    UnderWay {
        request: blake3::Hash,
        ended: watch::Receiver<()>,
    },
    Given {
        request: blake3::Hash,
        at: Instant,
        answer: Arc<GivenAnswer>,
    },
}

struct GivenAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<Bytes>,
}

/// The right to answer a named request. Dropped before the answer is complete, it frees the name.
struct AnswerClaim {
    answers: Arc<RecordedAnswers>,
    key: Key,
    request: blake3::Hash,
    // Dropped after the name is free or the answer is kept, which wakes those who wait for either.
    _ended: watch::Sender<()>,
}

impl RecordedAnswers {
    /// Claims the name of a request, or returns the answer that was given to it before. Waits while it is being
    /// answered.
    ///
    /// # Errors
    /// [`ApiError::IdempotencyKeyReused`] if the name is that of another request.
    async fn claim(
        self: &Arc<Self>,
        key: Key,
        request: blake3::Hash,
    ) -> Result<Result<AnswerClaim, Arc<GivenAnswer>>, ApiError> {
        loop {
            let mut under_way = {
                let mut answers = self.answers.lock();
                answers.retain(|_, answer| !answer.is_old());
                match answers.get(&key) {
                    Some(answer) if *answer.request() != request => {
                        return Err(ApiError::IdempotencyKeyReused);
                    }
                    Some(Answer::Given { answer, .. }) => return Ok(Err(answer.clone())),
                    Some(Answer::UnderWay { ended, .. }) => ended.clone(),
                    None => {
                        let (sender, ended) = watch::channel(());
                        answers.insert(key.clone(), Answer::UnderWay { request, ended });
                        return Ok(Ok(AnswerClaim {
                            answers: self.clone(),
                            key,
                            request,
                            _ended: sender,
                        }));
                    }
                }
            };
            // Nothing is ever sent: this waits for the channel's end.
            let _ = under_way.changed().await;
        }
    }
}

impl Answer {
    fn request(&self) -> &blake3::Hash {
        match self {
            Self::UnderWay { request, .. } | Self::Given { request, .. } => request,
        }
    }

    fn given_at(&self) -> Option<Instant> {
        match self {
            Self::UnderWay { .. } => None,
            Self::Given { at, .. } => Some(*at),
        }
    }

    fn is_old(&self) -> bool {
        self.given_at().is_some_and(|at| at.elapsed() > RETENTION)
    }
}

impl AnswerClaim {
    /// Keeps the complete answer.
    fn keep(self, answer: GivenAnswer) {
        let mut answers = self.answers.answers.lock();
        let given = Answer::Given {
            request: self.request,
            at: Instant::now(),
            answer: Arc::new(answer),
        };
        answers.insert(self.key.clone(), given);
        if answers.len() > MAX_ANSWERS {
            let given = answers
                .iter()
                .filter_map(|(key, answer)| Some((&key.0, Some(answer.given_at()?), key)));
            if let Some(first) = first_to_go(given).cloned() {
                answers.remove(&first);
            }
        }
    }
}

impl Drop for AnswerClaim {
    fn drop(&mut self) {
        let mut answers = self.answers.answers.lock();
        if let Some(Answer::UnderWay { .. }) = answers.get(&self.key) {
            answers.remove(&self.key);
        }
    }
}

/// The only field that matters here.
#[derive(Deserialize)]
struct Resumable {
    #[serde(default)]
    resumable: Option<bool>,
}

/// Answers a named request once.
pub(crate) async fn answer_once(
    State((answers, limit)): State<(Arc<RecordedAnswers>, BodyLimit)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let name = request.headers().get(IDEMPOTENCY_KEY);
    let name = name.and_then(|name| name.to_str().ok()).map(str::to_owned);
    let owner = request.extensions().get::<Caller>();
    let owner = owner.map(|caller| caller.owner.clone());
    let (Some(name), Some(owner), &Method::POST) = (name, owner, request.method()) else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = limit.in_time(to_bytes(body, limit.bytes)).await? else {
        return Err(ApiError::BodyTooLarge {
            limit_bytes: limit.bytes,
        });
    };
    let fields: Option<Resumable> = serde_json::from_slice(&body).ok();
    if fields.is_some_and(|fields| fields.resumable == Some(true)) {
        let again = Request::from_parts(parts, Body::from(body));
        return Ok(next.run(again).await);
    }
    let mut digest = blake3::Hasher::new();
    let path = parts.uri.path_and_query();
    digest.update(path.map_or("", |path| path.as_str()).as_bytes());
    digest.update(&[0]).update(&body);
    let claim = match answers.claim((owner, name), digest.finalize()).await? {
        Ok(claim) => claim,
        Err(given) => return Ok(given.replayed()),
    };
    let again = Request::from_parts(parts, Body::from(body));
    let response = next.run(again).await;
    // Whoever was refused may try again.
    if !response.status().is_success() {
        return Ok(response);
    }
    recorded(response, claim).await
}

impl GivenAnswer {
    fn replayed(&self) -> Response {
        let body = stream::iter(self.body.clone()).map(Ok::<_, std::convert::Infallible>);
        let mut response = (self.status, Body::from_stream(body)).into_response();
        *response.headers_mut() = self.headers.clone();
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
        response
    }
}

/// The same answer, which is kept: at once if it is there already, else when its client has been sent all of it.
async fn recorded(response: Response, claim: AnswerClaim) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    let mut answer = GivenAnswer {
        status: parts.status,
        headers: parts.headers.clone(),
        body: Vec::new(),
    };
    if let Some(bytes) = body.size_hint().exact() {
        let whole = to_bytes(body, usize::MAX).await;
        let whole = whole.map_err(|error| ApiError::Internal(error.to_string()))?;
        if bytes <= MAX_BYTES as u64 {
            answer.body.push(whole.clone());
            claim.keep(answer);
        }
        return Ok(Response::from_parts(parts, Body::from(whole)));
    }
    let chunks = body.into_data_stream();
    let state = (chunks, Some((answer, claim)), 0);
    let recorded = stream::unfold(state, |(mut chunks, recording, bytes)| async move {
        match chunks.next().await {
            Some(Ok(chunk)) => {
                let bytes = bytes + chunk.len();
                let fits = |_: &_| bytes <= MAX_BYTES;
                let mut recording = recording.filter(fits);
                if let Some((answer, _)) = &mut recording {
                    answer.body.push(chunk.clone());
                }
                Some((Ok(chunk), (chunks, recording, bytes)))
            }
            Some(Err(error)) => Some((Err(error), (chunks, None, bytes))),
            None => {
                if let Some((answer, claim)) = recording {
                    claim.keep(answer);
                }
                None
            }
        }
    });
    Ok(Response::from_parts(parts, Body::from_stream(recorded)))
}
