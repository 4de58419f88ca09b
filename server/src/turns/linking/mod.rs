//! Linking texts: cut into parts, handed to the engine side by side, each mention searched for while the
//! model copies on.

mod offsets;
mod parts;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use std::vec;

use onegen_engine::{Event, FinishReason, Mention, Role, Turn, TurnSummary};
use onegen_index::{Hit, SearchOptions};
use onegen_proto::{EntityCandidate, EntityMention, OffsetUnit};
use uuid::Uuid;

use crate::admission::Caller;
use crate::app::App;
use crate::collections::Collection;
use crate::metrics::Observation;
use crate::traces::{RequestTrace, TurnTrace};
use crate::turns::cutoff::Cutoff;
use crate::wire::blocking::blocking;
use crate::wire::citations::linkable;
use crate::wire::errors::{ApiError, FieldNames};

use parts::{Part, parts};

/// Parts of one request that are linked at once; the others wait for their turn, so that a long text lets
/// other requests in between.
const PARTS_AT_ONCE: usize = 8;

/// The fields that can be at fault when texts are linked.
const FIELDS: FieldNames = FieldNames {
    max_tokens: "max_tokens",
    prompt: "input",
};

/// Texts that a client wants linked, validated.
pub(crate) struct LinkRequest {
    /// Who asks, and whose KV-caches it may share.
    pub(crate) caller: Caller,
    pub(crate) texts: Vec<String>,
    /// Where the entities are.
    pub(crate) collection: Arc<Collection>,
    pub(crate) search: SearchOptions,
    pub(crate) offsets: OffsetUnit,
    /// When the request came.
    pub(crate) received: Instant,
}

/// What happens while texts are linked, in order.
pub(crate) enum LinkEvent {
    /// A mention in the text of this number.
    Mention(usize, EntityMention),
    /// The model has copied a part, or as much of one as its context held.
    Copied(TurnSummary),
}

/// Texts that are being linked. Dropped before the end, all of it is cancelled.
pub(crate) struct Linking {
    shared: Arc<LinkContext>,
    waiting: vec::IntoIter<Part>,
    /// In order.
    running: VecDeque<LivePart>,
    /// How many parts there are.
    pub(crate) parts: usize,
}

/// What all parts of a request have in common.
struct LinkContext {
    app: Arc<App>,
    link_request: LinkRequest,
    trace: Option<Arc<RequestTrace>>,
}

/// A part that the engine copies.
struct LivePart {
    shared: Arc<LinkContext>,
    part: Part,
    /// None once all of it is copied.
    turn: Option<PartTurn>,
}

/// A turn of the engine under observation.
struct PartTurn {
    turn: Turn,
    observation: Observation,
    trace: Option<TurnTrace>,
}

impl LinkRequest {
    /// Cuts the texts and hands the first parts to the engine.
    ///
    /// # Errors
    /// The model links nothing, or the request is one too many.
    pub(crate) async fn start(mut self, app: &Arc<App>) -> Result<Linking, ApiError> {
        let model = app.engine.model().clone();
        let (texts, unit) = (std::mem::take(&mut self.texts), self.offsets);
        let bytes = texts.iter().map(String::len).sum();
        let parts = app.encoding.run(bytes, move |_| parts(texts, unit, &model));
        let parts = parts.await??;
        let mut linking = Linking {
            parts: parts.len(),
            shared: Arc::new(LinkContext {
                app: app.clone(),
                link_request: self,
                trace: RequestTrace::current(),
            }),
            waiting: parts.into_iter(),
            running: VecDeque::new(),
        };
        for _ in 0..PARTS_AT_ONCE {
            linking.start_next().await?;
        }
        Ok(linking)
    }
}

impl Linking {
    /// The next event, or `None` after the last. Nothing comes after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<LinkEvent, ApiError>> {
        let shared = self.shared.clone();
        let LinkRequest {
            caller, received, ..
        } = &shared.link_request;
        let mut cutoff = Cutoff::new(&shared.app, caller, *received);
        let event = cutoff.within(self.next_of_parts()).await.flatten();
        if let Err(error) = &event {
            for mut part in self.running.drain(..) {
                part.failed(error);
            }
        }
        event.transpose()
    }

    async fn next_of_parts(&mut self) -> Result<Option<LinkEvent>, ApiError> {
        while let Some(first) = self.running.front_mut() {
            if let Some(event) = first.next().await? {
                return Ok(Some(event));
            }
            self.running.pop_front();
            self.start_next().await?;
        }
        Ok(None)
    }

    async fn start_next(&mut self) -> Result<(), ApiError> {
        if let Some(part) = self.waiting.next() {
            let turn = Some(self.shared.begin(&part).await?);
            let shared = self.shared.clone();
            self.running.push_back(LivePart { shared, part, turn });
        }
        Ok(())
    }
}

impl LinkContext {
    /// Hands a part to the engine.
    async fn begin(&self, part: &Part) -> Result<PartTurn, ApiError> {
        let Self {
            app, link_request, ..
        } = self;
        let tokens = app.engine.model().tokens().clone();
        let (text, bytes) = (part.text.clone(), part.bytes.clone());
        let name = format!("link_{}", Uuid::new_v4().simple());
        let request =
            blocking(move || onegen_engine::LinkRequest::new(name, &text[bytes], &tokens)).await?;
        let mut request = request.map_err(|error| FIELDS.tokens_error(error))?;
        request.cache_salt = link_request.caller.owner.name().cloned();
        let turn = app.engine.submit(request);
        let turn = turn.await.map_err(|error| FIELDS.submit_error(error))?;
        let trace = self.trace.clone().map(|trace| {
            let trace = TurnTrace::within(trace, turn.timeline(), link_request.collection.name());
            trace.reads(Role::User, &part.text[part.bytes.clone()]);
            trace
        });
        Ok(PartTurn {
            turn,
            observation: Observation::new(app.metrics.clone(), link_request.received),
            trace,
        })
    }
}

impl LivePart {
    async fn next(&mut self) -> Result<Option<LinkEvent>, ApiError> {
        let Some(live) = &mut self.turn else {
            return Ok(None);
        };
        match live.turn.next().await {
            Some(Event::Mention(mention)) => {
                let mention = self.linked(mention).await?;
                Ok(Some(LinkEvent::Mention(self.part.index, mention)))
            }
            Some(Event::Finished(summary)) => {
                live.observation.finished(&summary);
                if let Some(trace) = &mut live.trace {
                    let start = self.part.bytes.start;
                    let copied = start..start + summary.linked_bytes;
                    trace.finished(&summary, &self.part.text[copied]);
                }
                self.turn = None;
                if summary.finish_reason == FinishReason::Length {
                    self.turn = Some(self.rest(summary.linked_bytes).await?);
                }
                Ok(Some(LinkEvent::Copied(summary)))
            }
            Some(Event::Failed(error)) => Err(error.into()),
            Some(Event::Text(_) | Event::Retrieval(_)) | None => {
                let what = "a turn that links did something else".to_owned();
                Err(ApiError::Internal(what))
            }
        }
    }

    /// A turn over what the context was too short for.
    async fn rest(&mut self, linked_bytes: usize) -> Result<PartTurn, ApiError> {
        if linked_bytes == 0 {
            let what = "the context does not hold a text and one mention in it".to_owned();
            return Err(ApiError::Internal(what));
        }
        self.part.bytes.start += linked_bytes;
        self.shared.begin(&self.part).await
    }

    /// It goes no further.
    fn failed(&mut self, error: &ApiError) {
        if let Some(live) = &mut self.turn {
            live.observation.failed();
            if let Some(trace) = &mut live.trace {
                trace.failed(error.code());
            }
        }
    }

    /// A mention with its candidates.
    async fn linked(&mut self, mention: Mention) -> Result<EntityMention, ApiError> {
        let start = self.part.bytes.start + mention.start;
        let end = self.part.bytes.start + mention.end;
        let Part { text, offsets, .. } = &mut self.part;
        let (start_index, end_index) = (offsets.at(text, start), offsets.at(text, end));
        let text = text[start..end].to_owned();
        let shared = self.shared.clone();
        let searched = blocking(move || {
            let since = Instant::now();
            let store = shared.link_request.collection.store();
            let hits = store.search(&mention.embedding, &shared.link_request.search);
            (hits, since.elapsed().as_secs_f64())
        });
        let (hits, search_seconds) = searched.await?;
        let hits = hits?;
        if let Some(live) = &self.turn {
            live.observation.mention(!hits.is_empty(), search_seconds);
        }
        Ok(EntityMention {
            start_index,
            end_index,
            text,
            candidates: candidates(hits),
            search_ms: search_seconds * 1e3,
        })
    }
}

/// Each entity once, with its best score: one that is described at length is several passages.
fn candidates(hits: Vec<Hit>) -> Vec<EntityCandidate> {
    let mut candidates: Vec<EntityCandidate> = Vec::with_capacity(hits.len());
    for Hit { passage, score, .. } in hits {
        let id = passage.document_id();
        if candidates.iter().all(|candidate| candidate.id != id) {
            candidates.push(EntityCandidate {
                id: id.to_owned(),
                title: passage.title,
                url: linkable(passage.url),
                score,
                metadata: passage.metadata,
            });
        }
    }
    candidates
}
